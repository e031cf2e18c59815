"""Estimators: token rewards, advantages, returns and importance weights of a scored rollout."""

from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.config import PPO
from rlhf_core.objectives.advantages import (
    at_tokens,
    gae,
    grpo_advantages,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from rlhf_core.objectives.importance import truncated_weights
from rlhf_core.objectives.kl import token_kl
from rlhf_core.ppo.rewards import ShapedRewards
from rlhf_core.ppo.scoring import ModelOutputs


@dataclass(frozen=True)
class Estimates:
    """The weights of each token in the losses. (B, R) tensors are float32 and 0 at padding."""

    # -beta * KL (with kl_in "reward") and process reward at every token, final_B at the last one
    rewards_BR: Tensor
    advantages_BR: Tensor  # by config.advantage; GAE is whitened when configured
    returns_BR: Tensor  # GAE + values; without a critic the advantages before whitening
    # weight of each token's policy loss: truncated trainer / sampler ratio, or 1
    importance_BR: Tensor


def estimate(
    outputs: ModelOutputs,
    rewards: ShapedRewards,
    sampler_logprobs_BR: Tensor,
    mask_BR: Tensor,
    config: PPO,
    beta: float,
) -> Estimates:
    """Return the estimates of a scored rollout; beta: KL coefficient, score per nat."""
    kl_BR = token_kl(outputs.old_logprobs_BR, outputs.ref_logprobs_BR, mask_BR, config.kl_estimator)
    penalty = beta if config.kl_in == "reward" else 0.0
    rewards_BR = token_rewards(rewards.final_B, kl_BR, mask_BR, penalty) + rewards.process_BR
    cut_B = rewards.cut_B
    end_values_B = outputs.end_values_B.masked_fill(~cut_B | (config.truncated == "terminal"), 0.0)
    advantages_BR, returns_BR = estimate_advantages(
        rewards_BR,
        outputs.values_BR,
        mask_BR,
        config,
        end_values_B=end_values_B,
        learned_B=learned_rows(cut_B, config),
    )
    importance_BR = _importance(outputs.old_logprobs_BR, sampler_logprobs_BR, mask_BR, config)
    return Estimates(rewards_BR, advantages_BR, returns_BR, importance_BR)


def estimate_advantages(
    rewards_BR: Tensor,
    values_BR: Tensor,
    mask_BR: Tensor,
    config: PPO,
    *,
    end_values_B: Tensor | None = None,
    learned_B: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Return advantages and returns, (B, R) each, by `config.advantage`.

    Rows of one prompt are neighbours, `config.group_size` at a time.
    end_values_B: values of the states after the last tokens, for 'gae'; None: 0.
    learned_B: the rows whose tokens the losses count, which whitening takes its moments from; None:
    all. Baselines of groups and of the batch are over all rows.
    """
    counted_BR = mask_BR if learned_B is None else mask_BR & learned_B[:, None]
    if config.advantage == "gae":
        advantages_BR, returns_BR = gae(
            rewards_BR,
            values_BR,
            mask_BR,
            gamma=config.gamma,
            lam=config.gae_lambda,
            end_values_B=end_values_B,
        )
        if config.whiten_advantages:
            advantages_BR = whiten(advantages_BR, counted_BR)
        return advantages_BR, returns_BR
    group_B = torch.arange(len(rewards_BR), device=rewards_BR.device) // config.group_size
    if config.advantage in ("reinforce++", "reinforce++-baseline"):
        baseline_B = group_B if config.advantage == "reinforce++-baseline" else None
        returns_BR = reinforce_plus_plus_advantages(
            rewards_BR, mask_BR, gamma=config.gamma, group_B=baseline_B
        )
        return whiten(returns_BR, counted_BR), returns_BR
    if config.advantage == "rloo":
        advantage_B = rloo_advantages(rewards_BR.sum(-1), group_B)
    else:
        advantage_B = grpo_advantages(
            rewards_BR.sum(-1), group_B, scale_by_std=config.advantage == "grpo"
        )
    advantages_BR = at_tokens(advantage_B, mask_BR)
    return advantages_BR, advantages_BR


def learned_rows(cut_B: Tensor, config: PPO) -> Tensor:
    """Return the rows that count in the losses, bool: with overlong = 'mask' those not cut.

    Overlong filtering of DAPO (Yu et al. 2025, arXiv:2503.14476, section 3.4).
    """
    return ~cut_B if config.overlong == "mask" else torch.ones_like(cut_B)


def _importance(old_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor, config: PPO) -> Tensor:
    if config.importance_cap is None:
        return mask_BR.to(old_BR.dtype)
    return truncated_weights(
        old_BR, sampler_BR, mask_BR, cap=config.importance_cap, level=config.importance_level
    )
