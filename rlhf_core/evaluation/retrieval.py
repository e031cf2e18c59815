"""Retrieval of prompts by replies, and how much of it the policy has lost."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.evaluation.prompt_ranks import CHANCE, ranks_of_prompts
from rlhf_core.statistics.clusters import Clusters
from rlhf_core.statistics.paired import bootstrap_mean, resampled_means

SEED = 0  # of the resamples
_TAIL = 0.025  # of a two-sided interval of 95%


@dataclass(frozen=True)
class Loss:
    """The share of the SFT model's retrieval above chance that the policy has lost.

    value: the share, below 0 for a gain; None when the 95% interval of the SFT model's retrieval
    holds chance, because the share then says nothing. interval: 95% interval of the share; 0 to 1
    when it says nothing.
    """

    value: float | None
    interval: tuple[float, float]


def prompt_ranks(prompts: list[str], replies: list[str]) -> Tensor:
    """Return `ranks_of_prompts` as a tensor, (N,) float64."""
    return torch.from_numpy(ranks_of_prompts(prompts, replies))


def retrieval_loss(ours_N: Tensor, theirs_N: Tensor, clusters: Clusters = None) -> Loss:
    """Return the loss of the policy's ranks compared with the SFT model's of the same prompts.

    loss = (mean theirs - mean ours) / (mean theirs - 0.5). Its interval is the percentile bootstrap
    over prompts; a resample in which the SFT model is at chance or below has lost nothing.
    clusters: the prompts of items that share one.
    """
    if bootstrap_mean(theirs_N, seed=SEED, clusters=clusters)[0] <= CHANCE:
        return Loss(None, (0.0, 1.0))
    ours_R, theirs_R = resampled_means(
        torch.stack([ours_N, theirs_N]), seed=SEED, clusters=clusters
    )
    above_R = theirs_R - CHANCE
    lost_R = torch.where(above_R > 0, (theirs_R - ours_R) / above_R.clamp(min=1e-9), 0.0)
    low, high = (float(lost_R.quantile(q)) for q in (_TAIL, 1 - _TAIL))
    sft = float(theirs_N.mean())
    return Loss((sft - float(ours_N.mean())) / (sft - CHANCE), (low, high))
