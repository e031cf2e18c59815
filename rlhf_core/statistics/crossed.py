"""Intervals of a mean over training seeds, and over seeds and items together.

The models of all seeds are measured on the same items, so the values are a table of S seeds by N
items. The mean of the table varies by the seeds drawn, by the items drawn, and by the rest:
variance of seeds / S + variance of items / N + variance of the rest / (S N). The variance of the
means by seed and that of the means by item hold the last part both, so it is taken off once:
V = V_seeds + V_items - V_rest, as in two-way clustering (Cameron, Gelbach and Miller 2011, J.
Business and Economic Statistics 29). Each part has the t quantile of its own degrees of freedom,
half^2 = t_seeds^2 V_seeds + t_items^2 (V_items - V_rest): one quantile for their sum
(Satterthwaite 1946) covers too little with three seeds.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

from rlhf_core.statistics.clusters import Clusters, by_cluster, influences
from rlhf_core.statistics.intervals import Term, statistic

SMALLEST = 1e-12
Part = tuple[float, float]  # a part of the mean's variance, and its degrees of freedom
# sign, values (S, N): S seeds of two or more, N items that are the same in all blocks
Block = tuple[int, np.ndarray]


@dataclass(frozen=True)
class CrossedEstimate:
    """A mean, or a difference of two, its interval, and the p-value of a mean of 0."""

    value: float
    low: float
    high: float
    p_value: float


def pseudo_values(terms: list[Term], clusters: Clusters) -> np.ndarray:
    """Return one value per item, or per prompt that items share, whose mean is `statistic`, (N,).

    They are its linear approximation: of a mean the items' own values, of a ratio those of the
    tangent.
    """
    grouped = by_cluster(terms, clusters)
    parts_N = influences(grouped)
    return statistic(grouped) + len(parts_N) * parts_N


def crossed(blocks: Sequence[Block], confidence: float = 0.95) -> CrossedEstimate:
    """Return the sum over blocks of sign * mean, with an interval over seeds and items.

    With N = 1 the interval is over seeds alone. One block of differences by seed is paired by
    seed; two blocks are two samples of seeds (Welch). Seeds of one block must be two or more.
    """
    value = float(sum(sign * values_SN.mean() for sign, values_SN in blocks))
    by_seed = [_error_of_mean(values_SN.mean(1)) for _, values_SN in blocks]
    parts = [_joined(by_seed)]
    if blocks[0][1].shape[1] > 1:
        items_N = np.sum([sign * values_SN.mean(0) for sign, values_SN in blocks], axis=0)
        of_items, degrees = _error_of_mean(items_N)
        rest = sum(_rest(values_SN) for _, values_SN in blocks)
        parts.append((max(0.0, of_items - rest), degrees))
    parts = [(variance, degrees) for variance, degrees in parts if variance]
    half = _half_width(parts, (1 + confidence) / 2)
    return CrossedEstimate(value, value - half, value + half, _p_value(abs(value), parts))


def _joined(parts: list[Part]) -> Part:
    """Return the variance of a sum of independent means, with Welch's degrees of freedom."""
    total = sum(variance for variance, _ in parts)
    weighted = sum(variance**2 / degrees for variance, degrees in parts)
    return total, total**2 / weighted if weighted else 1.0


def _half_width(parts: list[Part], quantile: float) -> float:
    """Return half the width of the interval between this quantile of t and its mirror image."""
    squares = [variance * float(stdtrit(degrees, quantile)) ** 2 for variance, degrees in parts]
    return math.sqrt(sum(squares))


def _p_value(distance: float, parts: list[Part]) -> float:
    """Return the level at which the interval's half width is this distance, by bisection.

    Smaller ones than SMALLEST are not told apart.
    """
    if not parts:
        return 0.0 if distance else 1.0
    low, high = 0.0, 1.0
    while high - low > 1e-9 * high and high > SMALLEST:
        middle = (low + high) / 2
        # a larger p-value is a smaller quantile, and a narrower interval
        wider = _half_width(parts, middle / 2) > distance
        low, high = (middle, high) if wider else (low, middle)
    return high


def _error_of_mean(values_N: np.ndarray) -> Part:
    """Return the variance of a mean of independent values, and its degrees of freedom."""
    return float(values_N.var(ddof=1)) / len(values_N), len(values_N) - 1


def _rest(values_SN: np.ndarray) -> float:
    """Return the part of the mean's variance that neither seeds nor items explain alone."""
    seeds, items = values_SN.shape
    left_SN = values_SN - values_SN.mean(1, keepdims=True) - values_SN.mean(0) + values_SN.mean()
    mean_square = float(np.square(left_SN).sum()) / ((seeds - 1) * (items - 1))
    return mean_square / (seeds * items)
