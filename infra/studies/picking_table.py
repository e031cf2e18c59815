"""The tables of the study of picking: means over seeds, differences to random with intervals."""

import json
import math
import statistics
from collections.abc import Sequence
from pathlib import Path

from scipy.special import stdtrit

SETS = {
    "old": "held-out comparisons",
    "sft": "fresh pairs of the SFT model",
    "policy": "fresh pairs of the policy",
}
JUDGES = {"truth": "true utility", "votes": "the annotators' majority"}


def student(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and half width of the 95% Student interval; an infinite one below two values."""
    if len(values) < 2:
        return statistics.fmean(values), math.inf
    error = statistics.stdev(values) / math.sqrt(len(values))
    return statistics.fmean(values), float(stdtrit(len(values) - 1, 0.975)) * error


def tables(cells: list[dict], judge: str) -> list[str]:
    """Return a Markdown table: a row per number of labels and way, a column per held-out set.

    A cell is the mean accuracy over seeds, and the difference to random with its interval.
    """
    by = {(c["seed"], c["way"], c["labels"]): c for c in cells}
    rows = sorted({(c["labels"], c["way"] != "random", c["way"]) for c in cells})
    lines = [f"| labels | way | {' | '.join(SETS.values())} | wrong labels | equal utility |"]
    lines.append("|---" * (len(SETS) + 4) + "|")
    for labels, _, way in rows:
        own = {seed: c for (seed, w, n), c in by.items() if (w, n) == (way, labels)}
        shown = [_shown(own, by, labels, name, judge) for name in SETS]
        shares = [
            f"{statistics.fmean(c[key] for c in own.values()):.1%}"
            for key in ("wrong_labels", "equal_utility")
        ]
        lines.append(f"| {labels} | {way} | {' | '.join([*shown, *shares])} |")
    return lines


def _shown(own: dict[int, dict], by: dict[tuple, dict], labels: int, name: str, judge: str) -> str:
    mean = statistics.fmean(c["accuracy"][name][judge] for c in own.values())
    differences = [
        c["accuracy"][name][judge] - rival["accuracy"][name][judge]
        for seed, c in own.items()
        if (rival := by.get((seed, "random", labels))) is not None and rival is not c
    ]
    if not differences:
        return f"{mean:.3f}"
    centre, half = student(differences)
    return f"{mean:.3f} ({centre:+.3f} [{centre - half:+.3f}, {centre + half:+.3f}])"


def report(folder: Path) -> str:
    """Return the tables of the finished cells, in Markdown."""
    cells = [json.loads(f.read_text(encoding="utf-8")) for f in sorted(folder.glob("cells/*.json"))]
    if not cells:
        return f"no finished cell in {folder}"
    seeds = len({c["seed"] for c in cells})
    parts = [f"{seeds} seeds; in parentheses the difference to random, [95% interval over seeds]."]
    for judge, meaning in JUDGES.items():
        parts += ["", f"Accuracy by {meaning}:", "", *tables(cells, judge)]
    return "\n".join(parts)
