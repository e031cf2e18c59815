"""Paired comparisons of two sets of values for the same items: mean difference and win rate."""

import numpy as np
import torch
from torch import Tensor

from rlhf_core.statistics.clusters import (
    MIN_CLUSTERS,
    Clusters,
    bootstrap_clustered,
    linearised,
    wilson_clustered,
)

RESAMPLES = 2000


def bootstrap_mean(
    values_N: Tensor, *, seed: int, confidence: float = 0.95, clusters: Clusters = None
) -> tuple[float, float]:
    """Return the percentile bootstrap interval (Efron 1979) of the mean, in the values' unit.

    values_N: paired differences. clusters: the items' prompts, which are resampled as wholes
    (rlhf_core/statistics/clusters.py). Without shared prompts the resamples are those that stages
    have always drawn. Below MIN_CLUSTERS items it is Student's t interval, which of 2 items is
    wide. One item alone shows no spread: both ends are its value.
    """
    if clusters is not None or 2 <= len(values_N) < MIN_CLUSTERS:
        values = values_N.double().numpy()
        terms = [(1, values, np.ones(len(values)))]
        if clusters is None:
            return linearised(terms, confidence)
        return bootstrap_clustered(terms, clusters, confidence, seed=seed)
    means = resampled_means(values_N, seed=seed)
    tail = round((1 - confidence) / 2, 12)  # 0.025, not 0.025000000000000022
    return float(means.quantile(tail)), float(means.quantile(1 - tail))


def resampled_means(values_N: Tensor, *, seed: int, clusters: Clusters = None) -> Tensor:
    """Return the means of resamples with replacement, (..., RESAMPLES) float64.

    values_N: (..., N); each resample takes the same items of every row, or with clusters the same
    whole clusters.
    """
    if clusters is not None:
        return _resampled_cluster_means(values_N.double(), torch.from_numpy(clusters), seed)
    return values_N.double()[..., _resamples(values_N.shape[-1], seed)].mean(-1)


def _resampled_cluster_means(values_N: Tensor, clusters_N: Tensor, seed: int) -> Tensor:
    sizes_K = clusters_N.bincount().double()
    sums_K = torch.zeros(*values_N.shape[:-1], len(sizes_K), dtype=torch.float64)
    sums_K.index_add_(-1, clusters_N, values_N)
    index = _resamples(len(sizes_K), seed)
    return sums_K[..., index].sum(-1) / sizes_K[index].sum(-1)


def _resamples(size: int, seed: int) -> Tensor:
    """Return the numbers of RESAMPLES draws of `size` out of `size`, (RESAMPLES, size)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(size, (RESAMPLES, size), generator=generator)


def win_rate(
    ours_N: Tensor, theirs_N: Tensor, confidence: float = 0.95, clusters: Clusters = None
) -> tuple[float, tuple[float, float]]:
    """Return the share of items on which `ours` is higher, and its Wilson interval.

    A tie counts one half. clusters: the items' prompts, each of which is sampled as a whole.
    """
    wins_N = ((ours_N > theirs_N) + 0.5 * (ours_N == theirs_N)).double().numpy()
    interval = wilson_clustered(wins_N, np.ones(len(wins_N)), clusters, confidence)
    return float(wins_N.sum()) / len(ours_N), interval
