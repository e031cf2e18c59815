"""Importance weights that correct for the mismatch of sampler and trainer, and measures of it.

Other kernels, lower precision or older weights make the sampler draw from a slightly different
distribution than the one that the trainer differentiates.
"""

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from rlhf_core.objectives.kl import token_kl


def truncated_weights(
    trainer_logprobs_BR: Tensor,
    sampler_logprobs_BR: Tensor,
    mask_BR: Tensor,
    *,
    cap: float,
    level: Literal["token", "sequence"] = "token",
) -> Tensor:
    """Return min(pi_trainer / pi_sampler, cap), (B, R), 0 at padding, without gradient.

    "token": the ratio of each token, low variance, some bias. "sequence": the product over the
    response, at all its tokens; unbiased but for the cap, high variance. Ionides 2008, "Truncated
    importance sampling"; Yao et al. 2025, "Your efficient RL framework secretly brings you
    off-policy RL training".
    """
    log_ratio_BR = (trainer_logprobs_BR - sampler_logprobs_BR).detach().masked_fill(~mask_BR, 0.0)
    if level == "sequence":
        log_ratio_BR = log_ratio_BR.sum(-1, keepdim=True).expand_as(log_ratio_BR)
    return log_ratio_BR.exp().clamp(max=cap).masked_fill(~mask_BR, 0.0)


class Mismatch(NamedTuple):
    """Distance of the sampler from the trainer, over real tokens."""

    mean_abs_diff: float  # nats, mean |log pi_sampler - log pi_trainer|
    max_abs_diff: float  # nats
    kl: float  # nats/token, KL(sampler || trainer), k1
    kl_k3: float  # nats/token, the same by k3, never negative
    effective_share: float  # (sum w)^2 / (n sum w^2) of the token weights: 1 when all are equal


def mismatch(
    trainer_logprobs_BR: Tensor,
    sampler_logprobs_BR: Tensor,
    mask_BR: Tensor,
    *,
    cap: float = math.inf,
) -> Mismatch:
    """Return statistics of sampler against trainer, in float64.

    `cap` truncates the weights of the effective sample size (Kish 1965). Raises ValueError when the
    mask has no real token.
    """
    sampler_N = sampler_logprobs_BR.detach()[mask_BR].double()
    trainer_N = trainer_logprobs_BR.detach()[mask_BR].double()
    tokens = len(sampler_N)
    if tokens == 0:
        raise ValueError(
            "the mask has no real token; expected at least one to compare sampler and trainer on"
        )
    real_N = torch.ones_like(sampler_N, dtype=torch.bool)
    k1_N = token_kl(sampler_N, trainer_N, real_N, "k1")
    log_weight_N = (-k1_N).clamp(max=math.log(cap))  # in logarithms, so that no weight overflows
    log_share = 2 * log_weight_N.logsumexp(0) - (2 * log_weight_N).logsumexp(0) - math.log(tokens)
    return Mismatch(
        mean_abs_diff=float(k1_N.abs().mean()),
        max_abs_diff=float(k1_N.abs().max()),
        kl=float(k1_N.mean()),
        kl_k3=float(token_kl(sampler_N, trainer_N, real_N, "k3").mean()),
        effective_share=min(1.0, math.exp(log_share)),
    )
