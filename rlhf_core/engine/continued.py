"""The record of the stopped stages that a stage goes on from, where they had other ranks."""

import json
from pathlib import Path

CONTINUED = "continued.json"  # in a run directory


def continued_from(run_dir: Path) -> dict[str, str]:
    """Return the checkpoints that a stage began with, as one value of its environment.

    Nothing for a stage that began by itself.
    """
    file = run_dir / CONTINUED
    if not file.exists():
        return {}
    found = json.loads(file.read_text(encoding="utf-8"))
    parts = [f"{one['checkpoint']} of {one['run_dir']}, {one['ranks']} ranks" for one in found]
    return {"continued_from": "; ".join(parts)}
