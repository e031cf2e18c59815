"""The objectives, as small pure functions of tensors and plain floats.

Axes: B rows, R response tokens. Masks are True at real response tokens, EOS included. Log-probabilities are float32
nats. Losses are sums over the mask divided by a `denominator` that the caller counts over the whole optimizer step,
so that splitting a batch into microbatches changes no gradient.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def token_logprobs(logits_BRV: Tensor, ids_BR: Tensor) -> Tensor:
    """log softmax(logits)[id], (B, R) float32, without a second tensor of size V in memory."""
    logits_BRV = logits_BRV.float()
    picked_BR = logits_BRV.gather(-1, ids_BR.unsqueeze(-1)).squeeze(-1)
    return picked_BR - logits_BRV.logsumexp(-1)


def token_entropy(logits_BRV: Tensor) -> Tensor:
    """-sum_v p log p, (B, R) float32 nats."""
    logits_BRV = logits_BRV.float()
    return logits_BRV.logsumexp(-1) - (logits_BRV.softmax(-1) * logits_BRV).sum(-1)


def masked_sum(values_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Sum where the mask is True; what stands under False (even NaN) does not matter."""
    return values_BR.masked_fill(~mask_BR, 0.0).sum()


def cross_entropy(logprobs_BR: Tensor, mask_BR: Tensor, denominator: float) -> Tensor:
    """-sum(mask * logp) / denominator, nats per token: the prompt-masked SFT loss."""
    return -masked_sum(logprobs_BR, mask_BR) / denominator


def bradley_terry(chosen_B: Tensor, rejected_B: Tensor, denominator: float) -> Tensor:
    """-sum log sigmoid(r_chosen - r_rejected) / denominator (Ouyang et al. 2022, arXiv:2203.02155, eq. 1)."""
    return -F.logsigmoid(chosen_B - rejected_B).sum() / denominator


def token_rewards(score_B: Tensor, kl_BR: Tensor, mask_BR: Tensor, beta: float) -> Tensor:
    """-beta * kl at every response token, plus the score at the last one (Ziegler et al. 2019, arXiv:1909.08593, eq. 2).

    kl_BR: old_logprobs - ref_logprobs (the k1 estimate). Returns (B, R), 0 at padding.
    """
    rewards_BR = (-beta * kl_BR).masked_fill(~mask_BR, 0.0)
    last_B1 = mask_BR.sum(-1, keepdim=True) - 1
    return rewards_BR.scatter_add(1, last_B1, score_B.unsqueeze(1).to(rewards_BR.dtype))


def gae(rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, *, gamma: float, lam: float) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, R) each, 0 at padding (Schulman et al. 2016, arXiv:1506.02438, eq. 16).

    delta_t = r_t + gamma V_{t+1} - V_t,  A_t = delta_t + gamma lam A_{t+1},  return_t = A_t + V_t; V is 0 past the end.
    """
    values_BR = values_BR.masked_fill(~mask_BR, 0.0)
    advantages_BR = torch.zeros_like(values_BR)
    next_advantage_B = next_value_B = torch.zeros_like(values_BR[:, 0])
    for t in reversed(range(values_BR.shape[1])):
        delta_B = rewards_BR[:, t] + gamma * next_value_B - values_BR[:, t]
        next_advantage_B = (delta_B + gamma * lam * next_advantage_B) * mask_BR[:, t]
        advantages_BR[:, t] = next_advantage_B
        next_value_B = values_BR[:, t]
    return advantages_BR, (advantages_BR + values_BR).masked_fill(~mask_BR, 0.0)


def whiten(values_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """(x - mean) / (std + 1e-8) over real tokens, 0 at padding."""
    real = values_BR[mask_BR]
    return ((values_BR - real.mean()) / (real.std(correction=0) + 1e-8)).masked_fill(~mask_BR, 0.0)


def policy_loss(
    new_logprobs_BR: Tensor,
    old_logprobs_BR: Tensor,
    advantages_BR: Tensor,
    mask_BR: Tensor,
    *,
    clip: float,
    denominator: float,
) -> Tensor:
    """-sum min(rho A, clip(rho, 1 - clip, 1 + clip) A) / denominator, rho = exp(new - old) (Schulman et al. 2017,
    arXiv:1707.06347, eq. 7)."""
    ratio_BR = (new_logprobs_BR - old_logprobs_BR).masked_fill(~mask_BR, 0.0).exp()
    clipped_BR = ratio_BR.clamp(1 - clip, 1 + clip)
    return -masked_sum(torch.minimum(ratio_BR * advantages_BR, clipped_BR * advantages_BR), mask_BR) / denominator


def value_loss(
    new_values_BR: Tensor,
    old_values_BR: Tensor,
    returns_BR: Tensor,
    mask_BR: Tensor,
    *,
    clip: float,
    denominator: float,
) -> Tensor:
    """1/2 sum max((V - G)^2, (V_clipped - G)^2) / denominator, V_clipped within `clip` of the old value
    (Huang et al. 2024, arXiv:2403.17031, detail 14)."""
    clipped_BR = old_values_BR + (new_values_BR - old_values_BR).clamp(-clip, clip)
    worst_BR = torch.maximum((new_values_BR - returns_BR) ** 2, (clipped_BR - returns_BR) ** 2)
    return 0.5 * masked_sum(worst_BR, mask_BR) / denominator


def adapt_beta(beta: float, kl: float, *, target: float, horizon: int, responses: int) -> float:
    """beta * (1 + clip(kl / target - 1, -0.2, 0.2) * responses / horizon) (Ziegler et al. 2019, section 2.2).

    kl and target: nats per response.
    """
    error = min(max(kl / target - 1, -0.2), 0.2)
    return beta * (1 + error * responses / horizon)


def explained_variance(values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor) -> float:
    """1 - Var(returns - values) / Var(returns); 0 when the returns do not vary."""
    returns, values = returns_BR[mask_BR], values_BR[mask_BR]
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0
