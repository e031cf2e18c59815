"""The token ids at which a model's replies end."""

import json
from pathlib import Path

from rlhf_core.modeling.requirements import embedding_rows


def stop_ids_of(folder: Path) -> frozenset[int]:
    """Return the ids at which the folder's own generation_config stops; else config.json's.

    vLLM stops at them whatever it is asked, so that every sampler does, and counts such a reply as
    ended. Ids without an embedding, such as a default of another vocabulary, are left out.
    """
    for name in ("generation_config.json", "config.json"):
        file = folder / name
        found = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        listed = found.get("eos_token_id")
        if listed is not None:
            ids = listed if isinstance(listed, list) else [listed]
            rows = embedding_rows(folder)
            return frozenset(id for id in ids if rows is None or id < rows)
    return frozenset()
