"""Whether a difference between two runs is more than chance: paired over the same items where there
are items.

Every verdict is at 95%, one at a time (not corrected for their number), and covers the items drawn,
not the training seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlhf_core.gates.measure import item_values
from rlhf_core.statistics.intervals import Term, bootstrap, sign_test, statistic, wilson
from tasks.analysis.run_evidence import Estimate

MIN_ITEMS = 20  # below it the percentile bootstrap is too narrow to call anything
LEVEL = 0.05
Significance = Literal[
    "beyond noise",
    "within noise",
    "identical",
    "too few items",
    "no interval",
    "not comparable",
    "missing",
]


@dataclass(frozen=True)
class Finding:
    """A difference second - first, its 95% interval, and what it is worth. method: how the interval
    was made.
    """

    verdict: Significance
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    method: str = ""
    note: str = ""
    better: bool | None = (
        None  # whether the second run is the better one; None: within noise, or no side is better
    )


def terms(values: Sequence[float]) -> list[Term]:
    """The mean of values as terms of a statistic."""
    values_N = np.asarray(values, dtype=float)
    return [(1, values_N, np.ones(len(values_N)))]


def mean(values: Sequence[float]) -> Estimate:
    """Mean of items with its percentile bootstrap interval; without one for fewer items than
    MIN_ITEMS.
    """
    parts = terms(values)
    return Estimate(
        statistic(parts),
        *(bootstrap(parts) if len(values) >= MIN_ITEMS else (None, None)),
        len(values),
    )


def paired(first: list[Term], second: list[Term], *, share: bool = False) -> Finding:
    """Second - first over the same items; percentile bootstrap over items (Efron 1979).

    share: the metric is a share of items; then the exact McNemar test (1947), a sign test of the
    items that changed sides, must agree before the difference is called beyond noise.
    """
    both = second + [(-sign, top, bottom) for sign, top, bottom in first]
    before_N, after_N = item_values(first), item_values(second)
    counted = np.isfinite(before_N) & np.isfinite(after_N)
    n, difference, method = int(counted.sum()), statistic(both), "paired bootstrap"
    if n == 0:
        return Finding("missing", n=0, note="no item is in both runs")
    if np.array_equal(before_N, after_N, equal_nan=True):
        return Finding("identical", 0.0, 0.0, 0.0, n, method)
    if n < MIN_ITEMS:
        return Finding("too few items", difference, n=n, method=method, note=_too_few(n))
    low, high = bootstrap(both)
    beyond = low > 0 or high < 0
    if share:
        p = sign_test(int((after_N > before_N).sum()), int((after_N < before_N).sum()))
        beyond, method = beyond and p < LEVEL, f"{method}; McNemar p = {p:.2g}"
    return Finding("beyond noise" if beyond else "within noise", difference, low, high, n, method)


def unpaired(first: Estimate, second: Estimate) -> Finding:
    """Difference of two estimates from their own intervals, taken as independent: MOVER (Zou and
    Donner 2008).

    For Wilson intervals this is Newcombe's method 10 (1998). Over the same items it is wider than a
    paired interval.
    """
    difference = second.value - first.value
    if first.low is None or second.low is None:
        return Finding(
            "no interval", difference, note="no per-item evidence, and no interval was recorded"
        )
    n = min((count for count in (first.n, second.n) if count is not None), default=None)
    low = difference - math.hypot(second.value - second.low, first.high - first.value)
    high = difference + math.hypot(second.high - second.value, first.value - first.low)
    verdict = "beyond noise" if low > 0 or high < 0 else "within noise"
    return Finding(
        verdict,
        difference,
        low,
        high,
        n,
        "unpaired, from each run's own 95% interval",
        "no per-item evidence",
    )


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> Finding:
    """How often ours is the higher, a tie counting one half, against 1/2 (difference: the rate
    itself).
    """
    n, method = len(ours), "Wilson interval"
    wins = sum((a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True))
    if n < MIN_ITEMS:
        return Finding(
            "too few items", wins / n if n else None, n=n, method=method, note=_too_few(n)
        )
    return rate(Estimate(wins / n, *wilson(wins, n), n), method)


def rate(estimate: Estimate, method: str, note: str = "") -> Finding:
    """A win rate with its interval, against 1/2."""
    value, low, high, n = estimate.value, estimate.low, estimate.high, estimate.n
    if low is None:
        return Finding("no interval", value, n=n, note=note)
    if low <= 0.5 <= high:
        return Finding("within noise", value, low, high, n, method, note)
    return Finding("beyond noise", value, low, high, n, method, note, better=value > 0.5)


def _too_few(n: int) -> str:
    return f"{n} items, at least {MIN_ITEMS} for a verdict"
