"""Paired comparisons of two sets of values for the same items: mean difference and win rate."""

import torch
from torch import Tensor

from rlhf_core.statistics.intervals import wilson


def bootstrap_mean(
    values_N: Tensor, *, seed: int, resamples: int = 2000, confidence: float = 0.95
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (Efron 1979) of the mean, in the values' unit.

    values_N: paired differences.
    """
    means = resampled_means(values_N, seed=seed, resamples=resamples)
    tail = round((1 - confidence) / 2, 12)  # 0.025, not 0.025000000000000022
    return float(means.quantile(tail)), float(means.quantile(1 - tail))


def resampled_means(values_N: Tensor, *, seed: int, resamples: int = 2000) -> Tensor:
    """Return the means of resamples with replacement, (..., resamples) float64.

    values_N: (..., N); each resample takes the same items of every row.
    """
    size = values_N.shape[-1]
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(size, (resamples, size), generator=generator)
    return values_N.double()[..., index].mean(-1)


def win_rate(
    ours_N: Tensor, theirs_N: Tensor, confidence: float = 0.95
) -> tuple[float, tuple[float, float]]:
    """Return the share of items on which `ours` is higher, and its Wilson interval.

    A tie counts one half.
    """
    wins = float((ours_N > theirs_N).sum() + 0.5 * (ours_N == theirs_N).sum())
    return wins / len(ours_N), wilson(wins, len(ours_N), confidence)
