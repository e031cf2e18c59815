"""Where a reward model is right and where it is not: accuracy by slice, calibration, the mistakes
it is surest of.

Pure functions over the items of the reward stage (rlhf_core/evidence/items.py). A pair is right
when the chosen answer scores higher.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

from rlhf_core.evidence.items import OF_DATA, Columns
from rlhf_core.statistics.intervals import newcombe, wilson

MOST_VALUES = 20  # of a column of names; the rarer ones are one slice together
MOST_NUMBERS = (
    8  # different numbers that are slices of their own; more are cut into quarters of equal count
)
BINS = 10
NOTHING, OTHERS = "(none)", "(other values)"


@dataclass(frozen=True)
class Slice:
    """Pairs with one value in one column. low, high: 95% Wilson interval of the accuracy.

    against_rest: accuracy less that of all other pairs, with its 95% interval; None when there are
    no others.
    """

    column: str
    value: str
    n: int
    accuracy: float
    low: float
    high: float
    margin: float
    against_rest: tuple[float, float, float] | None

    @property
    def differs(self) -> bool:
        """Whether the slice is better or worse than the rest beyond noise (one test of many: no
        correction is made).
        """
        return (
            self.against_rest is not None and not self.against_rest[1] <= 0 <= self.against_rest[2]
        )


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence sigmoid(|margin|), and the share of them that is right with its
    95% interval.
    """

    confidence: float
    right: float
    low: float
    high: float
    n: int


def margins(items: Columns) -> np.ndarray:
    """score(chosen) - score(rejected), (N,)."""
    return np.asarray(items["chosen_score"], float) - np.asarray(items["rejected_score"], float)


def slices(items: Columns) -> list[Slice]:
    """Every slice: all pairs, lengths, annotator agreement, members' spread, and each column that
    the data brought.
    """
    margin_N = margins(items)
    everything = np.ones(len(margin_N), bool)
    found = [_slice("all pairs", "", everything, margin_N)]
    for column, labels in labelled(items).items():
        values = np.array(labels, object)
        for value in _in_order(labels):
            found.append(_slice(column, value, values == value, margin_N))
    return found


def labelled(items: Columns) -> dict[str, list[str]]:
    """Slice label of every pair by column; a column with one value only, or with a value of its own
    for each pair, is none.
    """
    chosen_N, rejected_N = (
        np.asarray(items[f"{side}_tokens"], float) for side in ("chosen", "rejected")
    )
    longer = [
        ("shorter", "equal", "longer")[int(sign) + 1] for sign in np.sign(chosen_N - rejected_N)
    ]
    columns = {
        "chosen answer is": longer,
        "tokens of both answers": quarters((chosen_N + rejected_N).tolist()),
    }
    if "agreement" in items:
        columns["annotator agreement"] = _of_numbers(items["agreement"])
    if "chosen_member_1" in items:
        columns["spread of the members' margins"] = quarters(_spread(items).tolist())
    for name in [name for name in items if name.startswith(OF_DATA)]:
        columns[name.removeprefix(OF_DATA)] = _of_column(items[name])
    return {name: labels for name, labels in columns.items() if 1 < len(set(labels)) < len(labels)}


def _in_order(labels: list[str]) -> list[str]:
    """Numbers and ranges upwards, names by how many pairs have them; what is left over last."""
    counts = Counter(labels)

    def key(label: str) -> tuple:
        try:
            return label in (NOTHING, OTHERS), float(label.partition(" to ")[0]), label
        except ValueError:
            return label in (NOTHING, OTHERS), -float(counts[label]), label

    return sorted(counts, key=key)


def _spread(items: Columns) -> np.ndarray:
    members = [name.removeprefix("chosen_") for name in items if name.startswith("chosen_member_")]
    margins_MN = [
        np.asarray(items[f"chosen_{m}"]) - np.asarray(items[f"rejected_{m}"]) for m in members
    ]
    return np.std(margins_MN, axis=0)


def _of_column(values: list) -> list[str]:
    present = [value for value in values if value is not None]
    if present and all(isinstance(value, int | float) for value in present):
        return _of_numbers(values)
    counts = Counter(present)
    if len(counts) == len(present):
        return [NOTHING if value is None else "" for value in values]  # an identity, no slice
    frequent = {value for value, _ in counts.most_common(MOST_VALUES)}
    return [
        NOTHING if value is None else str(value) if value in frequent else OTHERS
        for value in values
    ]


def _of_numbers(values: list) -> list[str]:
    if len({value for value in values if value is not None}) > MOST_NUMBERS:
        return quarters(values)
    return [NOTHING if value is None else f"{value:.3g}" for value in values]


def quarters(values: list) -> list[str]:
    """'3 to 7' by quarter of equal count; equal values share a quarter."""
    present = np.array([value for value in values if value is not None], float)
    edges = (
        np.unique(np.quantile(present, [0.25, 0.5, 0.75], method="higher"))
        if len(present)
        else present
    )
    place = [
        None if value is None else int(np.searchsorted(edges, value, side="right"))
        for value in values
    ]
    names = {}
    for each in {p for p in place if p is not None}:
        inside = [value for value, p in zip(values, place, strict=True) if p == each]
        names[each] = (
            f"{min(inside):.3g} to {max(inside):.3g}"
            if min(inside) < max(inside)
            else f"{min(inside):.3g}"
        )
    return [NOTHING if p is None else names[p] for p in place]


def _slice(column: str, value: str, inside_N: np.ndarray, margin_N: np.ndarray) -> Slice:
    right_N = margin_N > 0
    n, right = int(inside_N.sum()), int(right_N[inside_N].sum())
    rest, rest_right = len(margin_N) - n, int(right_N.sum()) - right
    against = newcombe(right, n, rest_right, rest) if rest else None
    return Slice(
        column, value, n, right / n, *wilson(right, n), float(margin_N[inside_N].mean()), against
    )


def calibration(items: Columns) -> list[Bin]:
    """Ten bins of equal count by confidence; a calibrated model's share right is its confidence."""
    margin_N = margins(items)
    order = np.argsort(np.abs(margin_N), kind="stable")
    found = []
    for part in np.array_split(order, BINS):
        if len(part):
            right = int((margin_N[part] > 0).sum())
            confidence = float((1 / (1 + np.exp(-np.abs(margin_N[part])))).mean())
            found.append(Bin(confidence, right / len(part), *wilson(right, len(part)), len(part)))
    return found


def mistakes(items: Columns, count: int) -> list[dict]:
    """The pairs ranked the wrong way round with the largest margins, the surest first: texts,
    scores, what is known of them.
    """
    margin_N = margins(items)
    worst = [int(i) for i in np.argsort(margin_N, kind="stable")[:count] if margin_N[i] < 0]
    about = [name for name in items if name == "agreement" or name.startswith(OF_DATA)]
    names = (
        "prompt",
        "chosen",
        "rejected",
        "chosen_score",
        "rejected_score",
        "chosen_tokens",
        "rejected_tokens",
        *about,
    )
    return [
        {"margin": float(margin_N[i]), "confidence": float(1 / (1 + np.exp(margin_N[i])))}
        | {n: items[n][i] for n in names}
        for i in worst
    ]
