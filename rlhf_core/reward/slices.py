"""Strengths and weaknesses of a reward model: accuracy by slice, calibration, confident mistakes.

Pure functions over the items of the reward stage (rlhf_core/evidence/items.py). A pair is right
when the chosen answer scores higher.
"""

from collections import Counter, defaultdict
from dataclasses import dataclass, replace

import numpy as np

from rlhf_core.evidence.item_terms import prompt_column
from rlhf_core.evidence.items import OF_DATA, Columns
from rlhf_core.statistics.clusters import Clusters, clusters_of, count_clusters, wilson_clustered
from rlhf_core.statistics.intervals import mover
from rlhf_core.statistics.p_values import adjusted, of_interval

MAX_VALUES = 20  # slices of a column of names; the rarer names are one slice together
MAX_NUMBERS = 8  # different numbers with a slice each; more are cut into quarters of equal count
BINS = 10
LEVEL = 0.05  # false discovery rate of the slices that are called better or worse
NOTHING, OTHERS = "(none)", "(other values)"
SIDES = ("chosen", "rejected")


@dataclass(frozen=True)
class Slice:
    """Pairs with one value in one column.

    n, prompts: pairs, and their different prompts. low, high: 95% Wilson interval of the accuracy,
    with each prompt sampled as a whole. against_rest: accuracy less that of all other pairs, with
    its 95% interval; None when there are no others. p_adjusted: the p-value of this difference,
    adjusted for the number of slices (Benjamini and Hochberg 1995).
    """

    column: str
    value: str
    n: int
    accuracy: float
    low: float
    high: float
    margin: float
    against_rest: tuple[float, float, float] | None
    prompts: int
    p_adjusted: float | None = None

    @property
    def differs(self) -> bool:
        """True if the slice is significantly better or worse than the rest.

        Of the slices that are called so, 5% are expected to be like the rest.
        """
        return self.p_adjusted is not None and self.p_adjusted < LEVEL


@dataclass(frozen=True)
class Bin:
    """Pairs of similar confidence sigmoid(|margin|), and their accuracy with its 95% interval."""

    confidence: float
    right: float
    low: float
    high: float
    n: int


def margins(items: Columns) -> np.ndarray:
    """Return score(chosen) - score(rejected), (N,)."""
    return np.asarray(items["chosen_score"], float) - np.asarray(items["rejected_score"], float)


def slices(items: Columns) -> list[Slice]:
    """Return every slice of the pairs.

    These are all pairs, lengths, annotator agreement, the members' spread, and each column that the
    data brought.
    """
    pairs = _Pairs(margins(items), _clusters(items))
    everything = np.ones(len(pairs.margin_N), bool)
    found = [_slice("all pairs", "", everything, pairs)]
    for column, labels in labelled(items).items():
        values = np.array(labels, object)
        for value in _in_order(labels):
            found.append(_slice(column, value, values == value, pairs))
    return _adjusted(found)


def _adjusted(found: list[Slice]) -> list[Slice]:
    """Return the slices with their p-values, adjusted for the number of those that were tested."""
    tested = [place for place, one in enumerate(found) if one.against_rest]
    differences = [one.against_rest for one in found if one.against_rest]
    result = list(found)
    for place, p in zip(tested, adjusted([of_interval(*d) for d in differences]), strict=True):
        result[place] = replace(found[place], p_adjusted=p)
    return result


@dataclass(frozen=True)
class _Pairs:
    margin_N: np.ndarray
    clusters: Clusters

    def accuracy(self, inside_N: np.ndarray) -> tuple[float, tuple[float, float]]:
        """Return the accuracy of the pairs inside, and its interval."""
        right_N = ((self.margin_N > 0) & inside_N).astype(float)
        interval = wilson_clustered(right_N, inside_N.astype(float), self.clusters)
        return float(right_N.sum()) / int(inside_N.sum()), interval


def _clusters(items: Columns) -> Clusters:
    name = prompt_column(items)
    return clusters_of(items[name]) if name else None


def labelled(items: Columns) -> dict[str, list[str]]:
    """Return the slice label of every pair, by column.

    A column with one value only, or with a value of its own for each pair, is left out.
    """
    chosen_N, rejected_N = (np.asarray(items[f"{side}_tokens"], float) for side in SIDES)
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
    """Sort numbers and ranges upwards, and names by their number of pairs; remainders come last."""
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
        return [NOTHING if value is None else "" for value in values]  # an identifier, no slice
    frequent = {value for value, _ in counts.most_common(MAX_VALUES)}

    def label(value: object) -> str:
        if value is None:
            return NOTHING
        return str(value) if value in frequent else OTHERS

    return [label(value) for value in values]


def _of_numbers(values: list) -> list[str]:
    if len({value for value in values if value is not None}) > MAX_NUMBERS:
        return quarters(values)
    return [NOTHING if value is None else f"{value:.3g}" for value in values]


def quarters(values: list) -> list[str]:
    """Return labels such as '3 to 7' by quarter of equal count; equal values share a quarter."""
    present = np.array([value for value in values if value is not None], float)
    edges = present
    if len(present):
        edges = np.unique(np.quantile(present, [0.25, 0.5, 0.75], method="higher"))

    def quarter(value: float) -> int:
        return int(np.searchsorted(edges, value, side="right"))

    inside: dict[int, list[float]] = defaultdict(list)
    for value in values:
        if value is not None:
            inside[quarter(value)].append(value)
    names = {number: _range(found) for number, found in inside.items()}
    return [NOTHING if value is None else names[quarter(value)] for value in values]


def _range(values: list[float]) -> str:
    low, high = min(values), max(values)
    return f"{low:.3g} to {high:.3g}" if low < high else f"{low:.3g}"


def _slice(column: str, value: str, inside_N: np.ndarray, pairs: _Pairs) -> Slice:
    accuracy, interval = pairs.accuracy(inside_N)
    against = None
    if not inside_N.all():
        rest, of_rest = pairs.accuracy(~inside_N)
        against = (accuracy - rest, *mover(accuracy, interval, rest, of_rest))
    margin, prompts = (
        float(pairs.margin_N[inside_N].mean()),
        count_clusters(pairs.clusters, inside_N),
    )
    return Slice(column, value, int(inside_N.sum()), accuracy, *interval, margin, against, prompts)


def calibration(items: Columns) -> list[Bin]:
    """Return ten bins of equal count by confidence.

    A calibrated model's accuracy in a bin equals its confidence.
    """
    pairs = _Pairs(margins(items), _clusters(items))
    margin_N = pairs.margin_N
    order = np.argsort(np.abs(margin_N), kind="stable")
    found = []
    for part in np.array_split(order, BINS):
        if len(part):
            accuracy, interval = pairs.accuracy(np.isin(np.arange(len(margin_N)), part))
            confidence = float((1 / (1 + np.exp(-np.abs(margin_N[part])))).mean())
            found.append(Bin(confidence, accuracy, *interval, len(part)))
    return found


def mistakes(items: Columns, count: int) -> list[dict]:
    """Return the wrongly ranked pairs with the largest margins, most confident first.

    Each has its texts, scores and further columns.
    """
    margin_N = margins(items)
    worst = [int(i) for i in np.argsort(margin_N, kind="stable")[:count] if margin_N[i] < 0]
    about = [name for name in items if name == "agreement" or name.startswith(OF_DATA)]
    names = (
        "prompt",
        *(f"{side}{of}" for of in ("", "_score", "_tokens") for side in SIDES),
        *about,
    )
    return [
        {"margin": float(margin_N[i]), "confidence": float(1 / (1 + np.exp(margin_N[i])))}
        | {n: items[n][i] for n in names}
        for i in worst
    ]
