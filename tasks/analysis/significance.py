"""Significance of a difference between two runs, paired over the same items where there are items.

Each finding is made at 95% on its own, and `corrected` takes their number into account. It covers
the items drawn, not the training seed, unless it says so. Items of one prompt are sampled together
(rlhf_core/statistics/clusters.py).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rlhf_core.evidence.item_terms import item_values
from rlhf_core.statistics.bounded import widened
from rlhf_core.statistics.clusters import (
    MIN_CLUSTERS,
    Clusters,
    bootstrap_clustered,
    count_clusters,
    sign_test_clustered,
    wilson_clustered,
)
from rlhf_core.statistics.intervals import Term, mover, statistic
from rlhf_core.statistics.p_values import adjusted, bootstrap_test, of_interval, win_rate_test
from tasks.analysis.run_evidence import Estimate

MIN_ITEMS = 20  # fewer items, or prompts, are too few for a verdict
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
Coverage = Literal["items", "seeds", "seeds and items"]


@dataclass(frozen=True)
class Finding:
    """A difference second - first with its 95% interval and its verdict.

    p_value: two-sided, of this finding alone; None where nothing was tested. p_adjusted: for the
    number of findings that were made together.
    """

    verdict: Significance
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    n: int | None = None
    method: str = ""  # how the interval was made
    note: str = ""
    better: bool | None = None  # the second run is better; None: not significant, or no side
    n_prompts: int | None = None  # different prompts of the n items, where items share prompts
    p_value: float | None = None
    p_adjusted: float | None = None
    covers: Coverage = "items"  # what the interval and the verdict are over

    @property
    def sample(self) -> str:
        """The sample size in words, e.g. 'n = 600 of 100 prompts'; '' where it is unknown."""
        if self.n is None:
            return ""
        return f"n = {self.n:,}" + (f" of {self.n_prompts:,} prompts" if self.n_prompts else "")

    @property
    def probability(self) -> str:
        """The p-values in words, '' where nothing was tested."""
        if self.p_value is None:
            return ""
        corrected = "" if self.p_adjusted is None else f", {self.p_adjusted:.2g} corrected"
        return f"p = {self.p_value:.2g}{corrected}"


def corrected(findings: Sequence[Finding]) -> list[Finding]:
    """Return the findings as they are when they are made together.

    Benjamini and Hochberg's adjusted p-value must be below LEVEL for a difference to stay
    significant, so that the expected share of false ones among those is at most LEVEL.
    """
    tested = [place for place, found in enumerate(findings) if found.p_value is not None]
    values = adjusted([p for found in findings if (p := found.p_value) is not None])
    result = list(findings)
    for place, p in zip(tested, values, strict=True):
        found = replace(findings[place], p_adjusted=p)
        if found.verdict == "significant" and p >= LEVEL:
            found = replace(found, verdict="not significant", better=None)
        result[place] = found
    return result


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
    items that changed sides, must agree before the difference is called significant, and with few
    changed items the interval is no narrower than by `widened`. clusters: the prompts of items that
    share one; whole prompts are resampled then.
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
        return Finding("identical", 0.0, 0.0, 0.0, n, method, n_prompts=shared, p_value=1.0)
    if prompts < MIN_ITEMS:
        note = _too_few(n, shared)
        return Finding("too few items", difference, n=n, method=method, note=note, n_prompts=shared)
    if prompts < MIN_CLUSTERS:
        method = "paired t interval"
    if shared:
        method = f"{method} of whole prompts"
    low, high, p = bootstrap_test(both, clusters)
    if share and counted.all():
        low, high = widened((low, high), after_N - before_N, clusters)
    verdict = verdict_on(low, high)
    if share:
        exact = sign_test_clustered(np.nan_to_num(after_N - before_N), clusters)
        verdict = verdict if exact < LEVEL else "not significant"
        method, p = f"{method}; McNemar p = {exact:.2g}", max(p, exact)
    return Finding(verdict, difference, low, high, n, method, n_prompts=shared, p_value=p)


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
    found = Finding(verdict_on(low, high), difference, low, high, n, method, "no per-item evidence")
    return replace(found, p_value=of_interval(difference, low, high))


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
    found = rate(Estimate(value, *interval, n), method)
    return replace(found, n_prompts=shared, p_value=win_rate_test(wins_N, clusters))


def rate(estimate: Estimate, method: str, note: str = "") -> Finding:
    """Compare a win rate that has an interval with 1/2; the finding's difference is the rate."""
    value, n = estimate.value, estimate.n
    if estimate.interval is None:
        return Finding("no interval", value, n=n, note=note)
    low, high = estimate.interval
    p, outside = of_interval(value - 0.5, low - 0.5, high - 0.5), not low <= 0.5 <= high
    verdict, better = verdict_on(low - 0.5, high - 0.5), value > 0.5 if outside else None
    return Finding(verdict, value, low, high, n, method, note, better=better, p_value=p)


def _too_few(n: int, prompts: int | None) -> str:
    found = f"{n} items" if prompts is None else f"{n} items of {prompts} prompts"
    return f"{found}, at least {MIN_ITEMS} for a verdict"
