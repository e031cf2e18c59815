"""The area under the ROC curve: how often a good item outranks a bad one, with its interval.

The estimate is the Mann-Whitney statistic; a tie counts half. Its variance is DeLong's (DeLong,
DeLong and Clarke-Pearson 1988, Biometrics 44), with each prompt as one sampled unit (Obuchowski
1997, Biometrics 53). The interval is Newcombe's fifth method (Newcombe 2006, Statistics in Medicine
25, part 2): like Wilson's of a share it stays within 0 and 1, and has a width where the ranking is
perfect. Its variance is enlarged by the ratio of the first variance to its own where items of one
prompt say less than independent ones.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit
from scipy.stats import rankdata

from rlhf_core.statistics.clusters import Clusters, count_clusters

_NEAR = 1e-12


class Auc(NamedTuple):
    """An area under the ROC curve, and the ends of its interval."""

    value: float
    low: float
    high: float


def auc(
    scores_N: np.ndarray, good_N: np.ndarray, clusters: Clusters = None, confidence: float = 0.95
) -> Auc:
    """Return the probability that a good item scores higher than a bad one, with its interval.

    good_N: True for a good item. clusters: the number of each item's prompt. One prompt alone gives
    the interval (0, 1). Raises ValueError without a good or without a bad item.
    """
    good_N = np.asarray(good_N, bool)
    m, n = int(good_N.sum()), int((~good_N).sum())
    value, parts_N = _influences(np.asarray(scores_N, float), good_N)
    units = count_clusters(clusters, np.ones(m + n))
    if units < 2:
        return Auc(value, 0.0, 1.0)
    effect = _design_effect(_variance_of(parts_N, clusters, units), value, (m, n), clusters)
    tail = (1 + confidence) / 2
    quantile = float(ndtri(tail) if clusters is None else stdtrit(units - 1, tail))
    return Auc(value, *_newcombe(value, m, n, quantile**2 * effect))


def auc_difference(
    scores_N: np.ndarray,
    others_N: np.ndarray,
    good_N: np.ndarray,
    clusters: Clusters = None,
    confidence: float = 0.95,
) -> Auc:
    """Return the area of one score less that of another of the same items, with its interval.

    The interval is the estimate -+ t standard errors of DeLong's paired difference, with each
    prompt as one unit. Raises ValueError as `auc` does.
    """
    good_N = np.asarray(good_N, bool)
    first, first_N = _influences(np.asarray(scores_N, float), good_N)
    second, second_N = _influences(np.asarray(others_N, float), good_N)
    units = count_clusters(clusters, np.ones(len(good_N)))
    if units < 2:
        return Auc(first - second, -1.0, 1.0)
    error = math.sqrt(_variance_of(first_N - second_N, clusters, units))
    half = float(stdtrit(units - 1, (1 + confidence) / 2)) * error
    value = first - second
    return Auc(value, max(-1.0, value - half), min(1.0, value + half))


def area(scores_N: np.ndarray, good_N: np.ndarray) -> float:
    """Return the probability that a good item scores higher than a bad one; a tie counts half."""
    return _influences(np.asarray(scores_N, float), np.asarray(good_N, bool))[0]


def _influences(scores_N: np.ndarray, good_N: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the area, and each item's part of its linear approximation, (N,), sum 0."""
    m, n = int(good_N.sum()), int((~good_N).sum())
    if not m or not n:
        raise ValueError(f"{m} good and {n} bad items; expected at least one of each")
    outranked_N = _outranked(scores_N, good_N)
    value = float(outranked_N[good_N].mean())
    return value, (outranked_N - value) / np.where(good_N, m, n)


def _variance_of(parts_N: np.ndarray, clusters: Clusters, units: int) -> float:
    """Return the variance of a sum of items' parts, with each of the `units` prompts as one."""
    parts_K = parts_N if clusters is None else np.bincount(clusters, parts_N)
    return units / (units - 1) * float(np.square(parts_K).sum())


def _outranked(scores_N: np.ndarray, good_N: np.ndarray) -> np.ndarray:
    """Return each good item's share of bad items below it, and each bad item's of good ones above.

    A tie counts half. The mean over either kind is the area.
    """
    ranks_N = rankdata(scores_N)
    shares_N = np.empty(len(ranks_N))
    own = ranks_N[good_N] - rankdata(scores_N[good_N])
    shares_N[good_N] = own / (~good_N).sum()
    other = ranks_N[~good_N] - rankdata(scores_N[~good_N])
    shares_N[~good_N] = 1 - other / good_N.sum()
    return shares_N


def _design_effect(
    variance: float, value: float, sizes: tuple[int, int], clusters: Clusters
) -> float:
    """Return the ratio of a variance to Newcombe's, at least 1.

    A perfect ranking shows no variance: the items of a prompt then count as one.
    """
    if clusters is None:
        return 1.0
    if 0 < value < 1:
        return max(1.0, variance / _variance(value, *sizes))
    sizes_K = np.bincount(clusters)
    return float(np.square(sizes_K).sum() / sizes_K.sum())


def _variance(value: float, m: int, n: int) -> float:
    """Return the variance of the area under Newcombe's model of two exponential distributions."""
    most = (m + n) / 2 - 1
    spread = 1 + most * ((1 - value) / (2 - value) + value / (1 + value))
    return value * (1 - value) * spread / (m * n)


def _newcombe(value: float, m: int, n: int, factor: float) -> tuple[float, float]:
    """Return the areas whose squared distance from `value` is `factor` times their variance."""

    def excess(candidate: float) -> float:
        return (value - candidate) ** 2 - factor * _variance(candidate, m, n)

    # both ends of the range are roots of their own where the value is there
    low = 0.0 if value == 0 else float(brentq(excess, 0.0, min(value, 1 - _NEAR)))
    high = 1.0 if value == 1 else float(brentq(excess, max(value, _NEAR), 1.0))
    return low, high
