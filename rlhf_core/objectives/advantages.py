"""From scores and values to advantages: token rewards, GAE, group baselines, whitening.

Axes: B rows (responses), R response tokens. Masks are True at real response tokens. Values where
the mask is False, even NaN, do not matter. Nothing here is differentiated through.
"""

from typing import NamedTuple

import torch
from torch import Tensor


def token_rewards(score_B: Tensor, kl_BR: Tensor, mask_BR: Tensor, beta: float) -> Tensor:
    """Return -beta * kl at every response token, plus the score at the last one.

    kl_BR: an estimate of KL(pi_old || pi_ref), nats. The result is (B, R), 0 at padding; a fully
    masked row stays 0. Ziegler et al. 2019, arXiv:1909.08593, eq. 2.
    """
    rewards_BR = (-beta * kl_BR).masked_fill(~mask_BR, 0.0)
    last_B1 = (mask_BR * torch.arange(1, mask_BR.shape[1] + 1, device=mask_BR.device)).argmax(
        -1, keepdim=True
    )
    score_B1 = torch.where(mask_BR.any(-1), score_B.to(rewards_BR.dtype), 0.0).unsqueeze(1)
    return rewards_BR.scatter_add(1, last_B1, score_B1)


def gae(
    rewards_BR: Tensor,
    values_BR: Tensor,
    mask_BR: Tensor,
    *,
    gamma: float,
    lam: float,
    end_values_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns by generalised advantage estimation, (B, R) each, 0 at padding.

    delta_t = r_t + gamma V_{t+1} - V_t
    A_t = delta_t + gamma lam A_{t+1}
    return_t = A_t + V_t

    V past the end is end_values_B, or 0: 0 where the response ended, the value of the last state
    where it was cut (Pardo et al. 2018, arXiv:1712.00378, section 3.2). t counts real tokens:
    masked ones between them (a tool's output) are skipped. Schulman et al. 2016, arXiv:1506.02438,
    eq. 16.
    """
    rewards_BR = rewards_BR.masked_fill(~mask_BR, 0.0)
    values_BR = values_BR.masked_fill(~mask_BR, 0.0)
    advantages_BR = torch.zeros_like(values_BR)
    next_advantage_B = next_value_B = torch.zeros_like(values_BR[:, 0])
    if end_values_B is not None:
        next_value_B = end_values_B.to(values_BR.dtype)
    for t in reversed(range(values_BR.shape[1])):
        delta_B = rewards_BR[:, t] + gamma * next_value_B - values_BR[:, t]
        next_advantage_B = torch.where(
            mask_BR[:, t], delta_B + gamma * lam * next_advantage_B, next_advantage_B
        )
        next_value_B = torch.where(mask_BR[:, t], values_BR[:, t], next_value_B)
        advantages_BR[:, t] = next_advantage_B
    advantages_BR = advantages_BR.masked_fill(~mask_BR, 0.0)
    return advantages_BR, advantages_BR + values_BR


def discounted_returns(rewards_BR: Tensor, mask_BR: Tensor, *, gamma: float) -> Tensor:
    """Return G_t = r_t + gamma G_{t+1} over real tokens, (B, R), 0 at padding.

    This is GAE with lambda 1 and no critic.
    """
    advantages_BR, _ = gae(rewards_BR, torch.zeros_like(rewards_BR), mask_BR, gamma=gamma, lam=1.0)
    return advantages_BR


# Critic-free: one score per response, compared with the other responses to the same prompt


def grpo_advantages(
    score_B: Tensor, group_B: Tensor, *, scale_by_std: bool = True, eps: float = 1e-6
) -> Tensor:
    """Return (score - group mean) / (group std + eps), (B,); std over n - 1.

    group_B: integer prompt of each response. A group of equal scores gets exactly 0, and so does a
    group of one, because there is nothing to compare it with. Shao et al. 2024, arXiv:2402.03300,
    section 4.1.2. Without `scale_by_std` it is Dr. GRPO (Liu et al. 2025, arXiv:2503.20783), which
    gives no extra weight to prompts with similar scores.
    """
    mean_B, count_B = _group_mean(score_B, group_B)
    centred_B = score_B - mean_B
    if not scale_by_std:
        return centred_B
    mean_square_B, _ = _group_mean(centred_B**2, group_B)
    return centred_B / ((mean_square_B * count_B / (count_B - 1).clamp(min=1)).sqrt() + eps)


def rloo_advantages(score_B: Tensor, group_B: Tensor) -> Tensor:
    """Return score - mean score of the group's other responses, (B,); 0 in a group of one.

    This is n / (n - 1) (score - group mean). Ahmadian et al. 2024, arXiv:2402.14740.
    """
    mean_B, count_B = _group_mean(score_B, group_B)
    return (score_B - mean_B) * count_B / (count_B - 1).clamp(min=1)


def reinforce_plus_plus_advantages(
    rewards_BR: Tensor, mask_BR: Tensor, *, gamma: float = 1.0, group_B: Tensor | None = None
) -> Tensor:
    """Return discounted returns before whitening over the whole batch, (B, R), 0 at padding.

    With `group_B` the baseline variant: each response's summed reward minus its group's mean, at
    every token. `whiten` of the result is the paper's advantage. The caller does that, since it
    knows the global moments. Hu et al. 2025, arXiv:2501.03262.
    """
    if group_B is None:
        return discounted_returns(rewards_BR, mask_BR, gamma=gamma)
    score_B = rewards_BR.masked_fill(~mask_BR, 0.0).sum(-1)
    return at_tokens(score_B - _group_mean(score_B, group_B)[0], mask_BR)


def at_tokens(advantage_B: Tensor, mask_BR: Tensor) -> Tensor:
    """Return each response's advantage at each of its real tokens, (B, R), 0 at padding."""
    return torch.where(mask_BR, advantage_B.unsqueeze(1), 0.0)


def _group_mean(values_B: Tensor, group_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and size of each row's group, (B,) each.

    The mean of equal values is that value, to the last bit: a difference by rounding would be
    divided by a standard deviation of about 0.
    """
    _, index_B, count_G = group_B.unique(return_inverse=True, return_counts=True)
    zero_G = torch.zeros(len(count_G), dtype=values_B.dtype, device=values_B.device)
    mean_G = zero_G.index_add(0, index_B, values_B) / count_G
    least_G = zero_G.scatter_reduce(0, index_B, values_B, "amin", include_self=False)
    most_G = zero_G.scatter_reduce(0, index_B, values_B, "amax", include_self=False)
    return mean_G.clamp(least_G, most_G)[index_B], count_G[index_B]


# Whitening, with moments that ranks or microbatches can merge


class Moments(NamedTuple):
    """Number, mean and sum of squared deviations of some values, which ranks exchange.

    All three are 0-d tensors.
    """

    n: Tensor
    mean: Tensor
    squares: Tensor

    def std(self, *, correction: int = 0) -> Tensor:
        """Return sqrt(squares / (n - correction))."""
        return (self.squares / (self.n - correction)).sqrt()


def masked_moments(values_BR: Tensor, mask_BR: Tensor) -> Moments:
    """Return the moments over real tokens; number 0 and mean 0 when there are none.

    The moments of equal values are exactly that value and 0.
    """
    count = mask_BR.sum().to(values_BR.dtype)
    mean = values_BR.masked_fill(~mask_BR, 0.0).sum() / count.clamp(min=1)
    if count:
        mean = _within(values_BR[mask_BR], mean)
    return Moments(count, mean, ((values_BR - mean).masked_fill(~mask_BR, 0.0) ** 2).sum())


def merge_moments(left: Moments, right: Moments) -> Moments:
    """Return the moments of both sets together, without cancellation.

    Chan et al. 1979, "Updating formulae".
    """
    n = left.n + right.n
    share = right.n / n.clamp(min=1)
    difference = right.mean - left.mean
    squares = left.squares + right.squares + difference**2 * left.n * share
    return Moments(n, left.mean + difference * share, squares)


def standardise(values_BR: Tensor, mask_BR: Tensor, *, mean: Tensor, std: Tensor) -> Tensor:
    """Return (x - mean) / std, 0 at padding.

    mean and std are those of the whole batch over all ranks.
    """
    return ((values_BR - mean) / std).masked_fill(~mask_BR, 0.0)


def whiten(values_BR: Tensor, mask_BR: Tensor) -> Tensor:
    """Return (x - mean) / (std + 1e-8) over this batch's real tokens, 0 at padding.

    Equal values give exactly 0.
    """
    real_N = values_BR[mask_BR]
    if not len(real_N):
        return torch.zeros_like(values_BR)
    mean, std = _within(real_N, real_N.mean()), real_N.std(correction=0) + 1e-8
    return standardise(values_BR, mask_BR, mean=mean, std=std)


def _within(values_N: Tensor, mean: Tensor) -> Tensor:
    """Return a mean that rounding may have put beside equal values, within their range."""
    return mean.clamp(*values_N.aminmax())


def explained_variance(values_BR: Tensor, returns_BR: Tensor, mask_BR: Tensor) -> float:
    """Return 1 - Var(returns - values) / Var(returns); 0 when the returns do not vary."""
    returns, values = returns_BR[mask_BR], values_BR[mask_BR]
    variance = returns.var(correction=0)
    return float(1 - (returns - values).var(correction=0) / variance) if variance > 0 else 0.0
