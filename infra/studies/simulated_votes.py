"""Votes of the quickstart's simulated annotators on pairs, and accuracy against them and truth."""

import json
import statistics
from collections.abc import Sequence
from pathlib import Path

from picking_table import JUDGES, SETS

from rlhf_core.quickstart.annotators import label
from rlhf_core.quickstart.utility import score
from rlhf_core.rundir import write_atomically


def read_rows(file: Path) -> list[dict]:
    """Return the rows of a JSON Lines file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def write_rows(file: Path, rows: Sequence[dict]) -> None:
    """Write rows as JSON Lines, by rename."""
    write_atomically(file, "".join(json.dumps(row) + "\n" for row in rows))


def voted(pairs: Sequence[tuple[list[dict], str, str]]) -> list[dict]:
    """Return comparisons: the reply that most simulated annotators prefer is the chosen one.

    pairs: prompt and two replies. The same pair gets the same votes whenever it is asked about.
    """
    texts = [prompt[-1]["content"] for prompt, _, _ in pairs]
    first = label(texts, [a for _, a, _ in pairs], [b for _, _, b in pairs])
    return [
        {"id": str(number), "prompt": prompt, "meta": {}}
        | ({"chosen": a, "rejected": b} if prefers_a else {"chosen": b, "rejected": a})
        for number, ((prompt, a, b), prefers_a) in enumerate(zip(pairs, first, strict=True))
    ]


def lead(rows: Sequence[dict]) -> list[float]:
    """Return the true utility of the chosen reply less that of the rejected one."""
    texts = [row["prompt"][-1]["content"] for row in rows]
    chosen, rejected = (
        score(texts, [row[side] for row in rows]) for side in ("chosen", "rejected")
    )
    return [one - other for one, other in zip(chosen, rejected, strict=True)]


def accuracies(folder: Path, heldout: list[dict]) -> dict[str, dict[str, float]]:
    """Return the accuracy by set and judge; pairs of equal utility do not count for the truth.

    folder: of a finished reward stage. A tie of its scores is wrong.
    """
    import pyarrow.parquet as pq

    items = pq.read_table(folder / "items.parquet").to_pylist()
    found: dict[str, dict[str, list[bool]]] = {name: {j: [] for j in JUDGES} for name in SETS}
    for row, item, truth in zip(heldout, items, lead(heldout), strict=True):
        if row["chosen"] != item["chosen"] or row["rejected"] != item["rejected"]:
            raise ValueError(f"the items of {folder} are not in the order of the held-out pairs")
        margin = item["chosen_score"] - item["rejected_score"]
        judged = found[row["meta"]["set"]]
        judged["votes"].append(margin > 0)
        if abs(truth) > 1e-9:
            judged["truth"].append(margin * truth > 0)
    return {
        name: {judge: statistics.fmean(right) for judge, right in judged.items()}
        for name, judged in found.items()
    }
