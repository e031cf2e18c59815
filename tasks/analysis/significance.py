"""Significance of a difference between two runs, paired over the same items where there are items.

Each verdict is at 95% on its own, not corrected for the number of verdicts. It covers the items
drawn, not the training seed. Items of one prompt are sampled together
(rlhf_core/statistics/clusters.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlhf_core.evidence.item_terms import item_values
from rlhf_core.statistics.clusters import (
    Clusters,
    bootstrap_clustered,
    count_clusters,
    sign_test_clustered,
    wilson_clustered,
)
from rlhf_core.statistics.intervals import Term, mover, statistic
from tasks.analysis.run_evidence import Estimate

MIN_ITEMS = 20  # the percentile bootstrap of fewer items, or prompts, is too narrow for a verdict
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
    n_prompts: int | None = None  # different prompts of the n items, where items share prompts

    @property
    def sample(self) -> str:
        """The sample size in words, e.g. 'n = 600 of 100 prompts'; '' where it is unknown."""
        if self.n is None:
            return ""
        return f"n = {self.n:,}" + (f" of {self.n_prompts:,} prompts" if self.n_prompts else "")


def terms(values: Sequence[float]) -> list[Term]:
    """Return the mean of values as terms of a statistic."""
    values_N = np.asarray(values, dtype=float)
    return [(1, values_N, np.ones(len(values_N)))]


def mean(values: Sequence[float], clusters: Clusters = None) -> Estimate:
    """Return the mean with its bootstrap interval; no interval below MIN_ITEMS items or prompts."""
    parts, n = terms(values), len(values)
    enough = count_clusters(clusters, np.ones(n)) >= MIN_ITEMS
    low, high = bootstrap_clustered(parts, clusters) if enough else (None, None)
    return Estimate(statistic(parts), low, high, n)


def verdict_on(low: float, high: float) -> Significance:
    """Return the verdict on a difference with this interval: significant when 0 is outside."""
    return "significant" if low > 0 or high < 0 else "not significant"


def paired(
    first: list[Term], second: list[Term], *, share: bool = False, clusters: Clusters = None
) -> Finding:
    """Return second - first over the same items; percentile bootstrap over items (Efron 1979).

    share: the metric is a share of items. Then the exact McNemar test (1947), a sign test of the
    items that changed sides, must agree before the difference is called significant. clusters: the
    prompts of items that share one; whole prompts are resampled then.
    """
    both = second + [(-sign, top, bottom) for sign, top, bottom in first]
    before_N, after_N = item_values(first), item_values(second)
    counted = np.isfinite(before_N) & np.isfinite(after_N)
    n, difference, method = int(counted.sum()), statistic(both), "paired bootstrap"
    prompts = count_clusters(clusters, counted)
    shared = prompts if prompts < n else None
    if n == 0:
        return Finding("missing", n=0, note="no item is in both runs")
    if np.array_equal(before_N, after_N, equal_nan=True):
        return Finding("identical", 0.0, 0.0, 0.0, n, method, n_prompts=shared)
    if prompts < MIN_ITEMS:
        note = _too_few(n, shared)
        return Finding("too few items", difference, n=n, method=method, note=note, n_prompts=shared)
    if shared:
        method = "paired bootstrap of whole prompts"
    low, high = bootstrap_clustered(both, clusters)
    verdict = verdict_on(low, high)
    if share:
        p = sign_test_clustered(np.nan_to_num(after_N - before_N), clusters)
        verdict = verdict if p < LEVEL else "not significant"
        method = f"{method}; McNemar p = {p:.2g}"
    return Finding(verdict, difference, low, high, n, method, n_prompts=shared)


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
    low, high = mover(second.value, second.interval, first.value, first.interval)
    n = min((count for count in (first.n, second.n) if count is not None), default=None)
    method = "unpaired, from each run's own 95% interval"
    return Finding(verdict_on(low, high), difference, low, high, n, method, "no per-item evidence")


def win_rate(ours: Sequence[float], theirs: Sequence[float], clusters: Clusters = None) -> Finding:
    """Compare the share of items where ours is the higher with 1/2; a tie counts one half.

    The finding's difference is the rate itself. clusters: the prompts of items that share one.
    """
    n, method = len(ours), "Wilson interval"
    wins_N = np.array([(a > b) + 0.5 * (a == b) for a, b in zip(ours, theirs, strict=True)])
    prompts = count_clusters(clusters, np.ones(n))
    shared, value = prompts if prompts < n else None, float(wins_N.sum()) / n if n else None
    if value is None or prompts < MIN_ITEMS:
        note = _too_few(n, shared)
        return Finding("too few items", value, n=n, method=method, note=note, n_prompts=shared)
    if shared:
        method = "Wilson interval over prompts"
    interval = wilson_clustered(wins_N, np.ones(n), clusters)
    return replace(rate(Estimate(value, *interval, n), method), n_prompts=shared)


def rate(estimate: Estimate, method: str, note: str = "") -> Finding:
    """Compare a win rate that has an interval with 1/2; the finding's difference is the rate."""
    value, n = estimate.value, estimate.n
    if estimate.interval is None:
        return Finding("no interval", value, n=n, note=note)
    low, high = estimate.interval
    if low <= 0.5 <= high:
        return Finding("not significant", value, low, high, n, method, note)
    return Finding("significant", value, low, high, n, method, note, better=value > 0.5)


def _too_few(n: int, prompts: int | None) -> str:
    found = f"{n} items" if prompts is None else f"{n} items of {prompts} prompts"
    return f"{found}, at least {MIN_ITEMS} for a verdict"
