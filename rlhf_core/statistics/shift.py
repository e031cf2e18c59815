"""The distance of one sample's values from another's, in standard deviations of the other."""

from dataclasses import dataclass

import numpy as np

from rlhf_core.statistics.clusters import Clusters, by_cluster, count_clusters, linearised
from rlhf_core.statistics.intervals import mover

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Shift:
    """New values against old ones, in standard deviations of the old ones.

    mean: difference of the means; interval: its 95% interval, None where a sample has one cluster
    alone. distance: Wasserstein-1. spread: standard deviation of the new ones / of the old ones.
    """

    mean: float
    interval: tuple[float, float] | None
    distance: float
    spread: float


def shift(
    new_N: np.ndarray,
    old_N: np.ndarray,
    new_clusters: Clusters = None,
    old_clusters: Clusters = None,
) -> Shift | None:
    """Return how far new values are from old ones; None without two old ones that differ.

    The distance is the integral of |F_new - F_old| over the values (Ramdas, Garcia Trillos and
    Cuturi 2017, Entropy 19(2):47, section 2.1). It is |mean| where the values only move, and larger
    where their distribution changes as well. The distance of Kolmogorov and Smirnov has no unit,
    and is 1 however far apart two samples are. The interval joins Student's t intervals of two
    independent means by MOVER, each cluster sampled as a whole; it takes the old standard deviation
    as known.
    """
    from scipy.stats import wasserstein_distance  # half a second, which few stages need to wait for

    if len(np.unique(old_N)) < 2:
        return None
    deviation = float(old_N.std())
    new_N, old_N = new_N / deviation, old_N / deviation
    new, old = float(new_N.mean()), float(old_N.mean())
    of_new, of_old = _interval(new_N, new_clusters), _interval(old_N, old_clusters)
    interval = mover(new, of_new, old, of_old) if of_new and of_old else None
    distance = float(wasserstein_distance(new_N, old_N))
    return Shift(new - old, interval, distance, float(new_N.std()))


def _interval(values_N: np.ndarray, clusters: Clusters) -> tuple[float, float] | None:
    ones_N = np.ones(len(values_N))
    if count_clusters(clusters, ones_N) < 2:
        return None
    return linearised(by_cluster([(1, values_N, ones_N)], clusters), CONFIDENCE)
