"""Divergence between two policies: sampled estimates, exact sum over the vocabulary, controller."""

from typing import Literal

import torch
from torch import Tensor

KLEstimator = Literal["k1", "k2", "k3"]


def token_kl(
    logprobs_BR: Tensor, ref_logprobs_BR: Tensor, mask_BR: Tensor, estimator: KLEstimator = "k1"
) -> Tensor:
    """Return an estimate of KL(pi || pi_ref) at tokens drawn from pi, (B, R) nats, 0 at padding.

    With d = log pi - log pi_ref:

    k1 = d               unbiased, any sign
    k2 = d^2 / 2         biased; its gradient is that of the KL
    k3 = exp(-d) - 1 + d unbiased, never negative

    As a term of the loss k1 is useless, because its expected gradient is 0. Schulman 2020,
    "Approximating KL divergence".
    """
    difference_BR = (logprobs_BR - ref_logprobs_BR).masked_fill(~mask_BR, 0.0)
    if estimator == "k1":
        return difference_BR
    if estimator == "k2":
        return 0.5 * difference_BR**2
    if estimator == "k3":
        return torch.expm1(-difference_BR) + difference_BR
    raise ValueError(f"KL estimator {estimator!r} is unknown; expected k1, k2 or k3")


def exact_kl(logits_BRV: Tensor, ref_logits_BRV: Tensor, mask_BR: Tensor) -> Tensor:
    """Return sum_v pi(v) (log pi(v) - log pi_ref(v)), (B, R) nats, 0 at padding.

    This is no estimate, but needs two tensors of size V. A token that pi never emits (logit -inf)
    adds nothing.
    """
    padding_BR1, wide = ~mask_BR.unsqueeze(-1), torch.promote_types(logits_BRV.dtype, torch.float32)
    logprobs_BRV = logits_BRV.masked_fill(padding_BR1, 0.0).log_softmax(-1, dtype=wide)
    ref_logprobs_BRV = ref_logits_BRV.masked_fill(padding_BR1, 0.0).log_softmax(-1, dtype=wide)
    difference_BRV = torch.where(logprobs_BRV > -torch.inf, logprobs_BRV - ref_logprobs_BRV, 0.0)
    return (logprobs_BRV.exp() * difference_BRV).sum(-1)


def adapt_beta(beta: float, kl: float, *, target: float, horizon: int, responses: int) -> float:
    """Return beta * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon).

    kl and target: nats per response. Ziegler et al. 2019, arXiv:1909.08593, section 2.2.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * responses / horizon)
