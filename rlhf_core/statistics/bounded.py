"""Intervals of means of bounded values where nearly all items are equal.

Resamples of equal items are all equal, so a bootstrap of 20 items of 20 would be certain. Below
MIN_BOOTSTRAP prompts that differ from the rest, an interval here is therefore at least as wide as
one from binomial intervals, which have a width at shares of 0 and 1: with n equal items an end is
about 3 / n to 4 / n away (the rule of three, Hanley and Lippman-Hand 1983, JAMA 249).
"""

import numpy as np

from rlhf_core.statistics.clusters import Clusters, count_clusters, net_share
from rlhf_core.statistics.intervals import MIN_BOOTSTRAP

Interval = tuple[float, float]


def few_differ(values_N: np.ndarray, clusters: Clusters) -> bool:
    """Return True where fewer than MIN_BOOTSTRAP prompts have an item unlike most items."""
    found, counts = np.unique(values_N, return_counts=True)
    unlike_N = (values_N != found[counts.argmax()]).astype(float)
    return count_clusters(clusters, unlike_N) < MIN_BOOTSTRAP


def widened(
    interval: Interval, values_N: np.ndarray, clusters: Clusters, confidence: float = 0.95
) -> Interval:
    """Return the interval of a mean, at least as wide as `net_share` where few items differ.

    interval: by the bootstrap or Student's t. values_N: -1 to 1, each item's own. `net_share` is
    exact for items of -1, 0 and 1, and wider than needed for values between: a value's variance is
    at most that of a share with the same mean.
    """
    if not few_differ(values_N, clusters):
        return interval
    _, low, high = net_share(values_N.clip(0), (-values_N).clip(0), clusters, confidence)
    return min(interval[0], low), max(interval[1], high)
