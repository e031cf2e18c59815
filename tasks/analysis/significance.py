"""Significance of a difference between two runs, paired over the same items where there are items.

Each verdict is at 95% on its own, not corrected for the number of verdicts. It covers the items
drawn, not the training seed.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rlhf_core.evidence.item_terms import item_values
from rlhf_core.statistics.intervals import Term, bootstrap, sign_test, statistic, wilson
from tasks.analysis.run_evidence import Estimate

MIN_ITEMS = 20  # the percentile bootstrap of fewer items is too narrow for a verdict
LEVEL = 0.05
Significance = Literal[
    "significant",
    "not significant",
    "identical",
    "too few items",
    "no interval",
    "not comparable",
    "missing",
]


@dataclass(frozen=True)
class Finding:
    """A difference second - first with its 95% interval and its verdict."""

    verdict: Significance
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    method: str = ""  # how the interval was made
    note: str = ""
    better: bool | None = None  # the second run is better; None: not significant, or no side


def terms(values: Sequence[float]) -> list[Term]:
    """Return the mean of values as terms of a statistic."""
    values_N = np.asarray(values, dtype=float)
    return [(1, values_N, np.ones(len(values_N)))]


def mean(values: Sequence[float]) -> Estimate:
    """Return the mean with its percentile bootstrap interval; no interval below MIN_ITEMS items."""
    parts, n = terms(values), len(values)
    low, high = bootstrap(parts) if n >= MIN_ITEMS else (None, None)
    return Estimate(statistic(parts), low, high, n)


def verdict_on(low: float, high: float) -> Significance:
    """Return the verdict on a difference with this interval: significant when 0 is outside."""
    return "significant" if low > 0 or high < 0 else "not significant"


def paired(first: list[Term], second: list[Term], *, share: bool = False) -> Finding:
    """Return second - first over the same items; percentile bootstrap over items (Efron 1979).

    share: the metric is a share of items. Then the exact McNemar test (1947), a sign test of the
    items that changed sides, must agree before the difference is called significant.
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
    verdict = verdict_on(low, high)
    if share:
        p = sign_test(int((after_N > before_N).sum()), int((after_N < before_N).sum()))
        verdict = verdict if p < LEVEL else "not significant"
        method = f"{method}; McNemar p = {p:.2g}"
    return Finding(verdict, difference, low, high, n, method)


def unpaired(first: Estimate, second: Estimate) -> Finding:
    """Return second - first from two independent intervals: MOVER (Zou and Donner 2008).

    For Wilson intervals this is Newcombe's method 10 (1998). Over the same items it is wider than a
    paired interval.
    """
    difference = second.value - first.value
    if first.interval is None or second.interval is None:
        return Finding(
            "no interval", difference, note="no per-item evidence, and no interval was recorded"
        )
    (first_low, first_high), (second_low, second_high) = first.interval, second.interval
    low = difference - math.hypot(second.value - second_low, first_high - first.value)
    high = difference + math.hypot(second_high - second.value, first.value - first_low)
    n = min((count for count in (first.n, second.n) if count is not None), default=None)
    method = "unpaired, from each run's own 95% interval"
    return Finding(verdict_on(low, high), difference, low, high, n, method, "no per-item evidence")


def win_rate(ours: Sequence[float], theirs: Sequence[float]) -> Finding:
    """Compare the share of items where ours is the higher with 1/2; a tie counts one half.

    The finding's difference is the rate itself.
    """
    n, method = len(ours), "Wilson interval"
    wins = sum((a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True))
    if n < MIN_ITEMS:
        return Finding(
            "too few items", wins / n if n else None, n=n, method=method, note=_too_few(n)
        )
    return rate(Estimate(wins / n, *wilson(wins, n), n), method)


def rate(estimate: Estimate, method: str, note: str = "") -> Finding:
    """Compare a win rate that has an interval with 1/2; the finding's difference is the rate."""
    value, n = estimate.value, estimate.n
    if estimate.interval is None:
        return Finding("no interval", value, n=n, note=note)
    low, high = estimate.interval
    if low <= 0.5 <= high:
        return Finding("not significant", value, low, high, n, method, note)
    return Finding("significant", value, low, high, n, method, note, better=value > 0.5)


def _too_few(n: int) -> str:
    return f"{n} items, at least {MIN_ITEMS} for a verdict"
