"""P-values that belong to the intervals here: below 0.05 when the 95% interval leaves out 0 or 1/2.

They are two-sided. Many of them are corrected together by `adjusted`.
"""

import math
from collections.abc import Sequence

import numpy as np
from scipy.special import ndtr, ndtri, stdtr

from rlhf_core.statistics.clusters import (
    MIN_CLUSTERS,
    Clusters,
    bootstrap_clustered,
    by_cluster,
    count_clusters,
    design_size,
    linear_error,
)
from rlhf_core.statistics.intervals import Term, percentiles, resampled, statistic


def adjusted(p_values: Sequence[float]) -> list[float]:
    """Return the p-values adjusted for their number (Benjamini and Hochberg 1995, JRSS B 57).

    Calling those below a level significant has a false discovery rate of at most that level: the
    expected share of true hypotheses among those that are rejected. It holds for tests that are
    independent or positively dependent (Benjamini and Yekutieli 2001, Annals of Statistics 29).
    Where every hypothesis is true, the rate is the probability of any rejection.
    """
    from scipy.stats import false_discovery_control  # half a second, as in `intervals`

    if not p_values:
        return []
    return [float(value) for value in false_discovery_control(list(p_values), method="bh")]


def of_interval(difference: float, low: float, high: float) -> float:
    """Return the p-value of a difference from its 95% interval alone, by the normal distribution.

    The standard error is that of the end on the side of 0. So it is below 0.05 exactly when the
    interval leaves out 0; far out it is approximate.
    """
    towards = difference - low if difference > 0 else high - difference
    if towards <= 0:
        return 0.0 if difference else 1.0
    return _two_sided(float(ndtri(0.975)) * abs(difference) / towards)


def bootstrap_test(
    terms: list[Term], clusters: Clusters, *, seed: int = 0
) -> tuple[float, float, float]:
    """Return the 95% interval of `bootstrap_clustered`, and the p-value of a `statistic` of 0.

    Of a bootstrap it is twice the share of resamples on the other side of 0 (Efron and Tibshirani
    1993, section 15.4), at least 2 / (RESAMPLES + 1).
    """
    grouped = by_cluster(terms, clusters)
    if len(grouped[0][1]) < MIN_CLUSTERS:
        low, high = bootstrap_clustered(terms, clusters, seed=seed)
        error = linear_error(grouped)
        if math.isnan(error):
            return low, high, 1.0
        if not error:
            return low, high, 0.0 if statistic(grouped) else 1.0
        return low, high, _two_sided(abs(statistic(grouped)) / error, len(grouped[0][1]) - 1)
    values_R = resampled(grouped, seed=seed)
    beyond = min(float((values_R <= 0).sum()), float((values_R >= 0).sum()))
    p = 1.0 if np.isnan(values_R).any() else min(1.0, 2 * (1 + beyond) / (1 + len(values_R)))
    return *percentiles(values_R), p


def win_rate_test(wins_N: np.ndarray, clusters: Clusters) -> float:
    """Return the p-value of a share of 1/2: the score test, which Wilson's interval inverts.

    wins_N: 1 won, 0.5 tied, 0 lost. Items that share a prompt: at the effective sample size, by
    Student's t.
    """
    n, ones_N = len(wins_N), np.ones(len(wins_N))
    share = float(wins_N.sum()) / n
    if clusters is None or (prompts := count_clusters(clusters, ones_N)) == n:
        return _two_sided(2 * abs(share - 0.5) * math.sqrt(n))
    if prompts < 2:
        return 1.0
    ((_, wins_K, sizes_K),) = by_cluster([(1, wins_N, ones_N)], clusters)
    size = design_size(wins_K, sizes_K)
    return _two_sided(2 * abs(share - 0.5) * math.sqrt(size), prompts - 1)


def _two_sided(statistic_value: float, degrees: int | None = None) -> float:
    """Return P(|T| > value), of a normal T, or of Student's t with these degrees of freedom."""
    below = -abs(statistic_value)
    return 2 * float(ndtr(below) if degrees is None else stdtr(degrees, below))
