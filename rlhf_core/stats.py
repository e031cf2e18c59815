"""Intervals that gates and reports quote."""

import math

import torch
from torch import Tensor

Z_95 = 1.959963984540054


def wilson(successes: float, n: int) -> tuple[float, float]:
    """95% Wilson score interval of a proportion (Wilson 1927); (0, 1) for n = 0.

    successes may be half-integral: a tie counts one half.
    """
    if n == 0:
        return 0.0, 1.0
    p, z2 = successes / n, Z_95**2
    centre = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
    return max(0.0, centre - half), min(1.0, centre + half)


def bootstrap_mean(values_N: Tensor, *, seed: int, resamples: int = 2000) -> tuple[float, float]:
    """95% percentile bootstrap interval of the mean (Efron 1979) of paired differences, in their unit."""
    generator = torch.Generator().manual_seed(seed)
    index = torch.randint(len(values_N), (resamples, len(values_N)), generator=generator)
    means = values_N.double()[index].mean(-1)
    return float(means.quantile(0.025)), float(means.quantile(0.975))


def win_rate(ours_N: Tensor, theirs_N: Tensor) -> tuple[float, tuple[float, float]]:
    """Share of items on which `ours` is higher, a tie counting one half, and its Wilson interval."""
    wins = float((ours_N > theirs_N).sum() + 0.5 * (ours_N == theirs_N).sum())
    return wins / len(ours_N), wilson(wins, len(ours_N))


def calibration_error(margins_N: Tensor, bins: int = 10) -> float:
    """Expected calibration error of P(label right) = sigmoid(margin), over equal-count bins of confidence.

    margins_N: score(chosen) - score(rejected). Confidence is sigmoid(|margin|); it is right when margin > 0.
    """
    confidence = margins_N.abs().sigmoid()
    right = (margins_N > 0).double()
    order = confidence.argsort()
    gaps = [(len(part), abs(float(confidence[part].mean() - right[part].mean()))) for part in order.chunk(bins)]
    return sum(n * gap for n, gap in gaps) / len(margins_N)
