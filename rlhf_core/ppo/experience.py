"""From responses to what PPO learns from: log-probabilities, values, scores, rewards, advantages, returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.advantages import (
    at_tokens,
    gae,
    grpo_advantages,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from rlhf_core.batch import Batch, collate, microbatches, select
from rlhf_core.config import PPO
from rlhf_core.importance import mismatch, truncated_weights
from rlhf_core.kl import token_kl
from rlhf_core.losses import masked_sum, tempered, token_entropy, token_logprobs
from rlhf_core.models import final_scores
from rlhf_core.ppo.rollout import Rollout

Forward = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Models:
    """The forward passes that score a rollout, without gradients."""

    actor: Forward  # logits; (logits, values) where the critic is a head on its trunk
    critic: Forward | None
    reward: Forward
    reference: Forward
    further_rewards: tuple[Forward, ...] = ()  # the other members of an ensemble, whose mean is the score


@dataclass(frozen=True)
class Part:
    """What the update needs of some rows; (B, R) tensors as in Experience, padding columns trimmed."""

    batch: Batch
    old_logprobs_BR: Tensor
    ref_logprobs_BR: Tensor
    values_BR: Tensor
    advantages_BR: Tensor
    returns_BR: Tensor
    importance_BR: Tensor
    beta: float


@dataclass(frozen=True)
class Experience:
    """One rollout, scored. (B, R) tensors are float32 and 0 at padding; masks are in `batch`."""

    batch: Batch
    ended_B: Tensor  # bool, by end-of-text
    score_B: Tensor  # reward model at the last response token; the mean over an ensemble
    spread_B: Tensor | None  # standard deviation of the score over the ensemble; None for one reward model
    sampler_logprobs_BR: Tensor  # what vLLM says it sampled from
    old_logprobs_BR: Tensor  # the actor before this step's update
    ref_logprobs_BR: Tensor  # the frozen SFT model
    entropy_BR: Tensor  # of the actor, over the vocabulary
    values_BR: Tensor  # critic before each token is emitted; 0 without a critic
    advantages_BR: Tensor  # by config.advantage; GAE is whitened when configured
    returns_BR: Tensor  # GAE + values; without a critic the advantages before whitening
    importance_BR: Tensor  # weight of each token's policy loss: truncated trainer / sampler ratio, or 1
    rewards_BR: Tensor  # shaped: -beta * KL at every token (with kl_in "reward"), the score at the last one
    beta: float  # KL coefficient of this step, score per nat
    seconds: float

    @property
    def kl_BR(self) -> Tensor:
        """k1 estimate: old_logprobs - ref_logprobs, nats."""
        return self.old_logprobs_BR - self.ref_logprobs_BR

    @property
    def reward_B(self) -> Tensor:
        """Sum of the shaped token rewards."""
        return self.rewards_BR.masked_fill(~self.batch.response_mask_BR, 0.0).sum(-1)

    def rows(self, rows: list[int]) -> Part:
        """What an update needs of some rows, padding columns trimmed."""
        batch = select(self.batch, rows)
        R = batch.response_mask_BR.shape[1]
        names = ("old_logprobs", "ref_logprobs", "values", "advantages", "returns", "importance")
        return Part(batch, **{f"{name}_BR": getattr(self, f"{name}_BR")[rows][:, :R] for name in names}, beta=self.beta)


@torch.no_grad()
def make_experience(rollout: Rollout, models: Models, config: PPO, *, beta: float, pad_id: int) -> Experience:
    """Run the models once over every sequence and shape rewards; beta in score per nat.

    Rows of one prompt are neighbours, `config.group_size` at a time.
    """
    started = time.monotonic()
    batch = collate(rollout.sequences, pad_id)
    mask_BR = batch.response_mask_BR
    scored = _score(batch, models, config)
    old_BR, ref_BR, values_BR = scored["old_logprobs_BR"], scored["ref_logprobs_BR"], scored["values_BR"]
    ended_B = torch.tensor(rollout.ended, device=mask_BR.device)
    final_B = scored["score_B"] - config.missing_eos_penalty * (~ended_B)
    if config.uncertainty_penalty:  # Coste et al. 2023, arXiv:2310.02743, eq. 5: mean - coefficient * variance
        final_B = final_B - config.uncertainty_penalty * scored["spread_B"] ** 2
    kl_BR = token_kl(old_BR, ref_BR, mask_BR, config.kl_estimator)
    rewards_BR = token_rewards(final_B, kl_BR, mask_BR, beta if config.kl_in == "reward" else 0.0)
    advantages_BR, returns_BR = estimate_advantages(rewards_BR, values_BR, mask_BR, config)
    sampler_BR = _padded(rollout.sampler_logprobs, mask_BR.shape[1]).to(mask_BR.device)
    return Experience(
        batch=batch,
        ended_B=ended_B,
        sampler_logprobs_BR=sampler_BR,
        advantages_BR=advantages_BR,
        returns_BR=returns_BR,
        importance_BR=_importance(old_BR, sampler_BR, mask_BR, config.importance_cap),
        rewards_BR=rewards_BR,
        beta=beta,
        seconds=time.monotonic() - started,
        **scored,
    )


def _score(batch: Batch, models: Models, config: PPO) -> dict[str, Tensor]:
    """What the models say of every sequence, microbatch by microbatch; log-probabilities at the sampling temperature."""
    mask_BR, temperature = batch.response_mask_BR, config.sampling.temperature
    old_BR, ref_BR, entropy_BR, values_BR = (torch.zeros(mask_BR.shape, device=mask_BR.device) for _ in range(4))
    rewards = (models.reward, *models.further_rewards)
    scores_MB = torch.zeros(len(rewards), len(mask_BR), device=mask_BR.device)
    for rows in microbatches(batch.sizes, config.micro_batch_tokens):
        part = select(batch, rows)
        R, part_mask = part.response_mask_BR.shape[1], part.response_mask_BR
        logits_BRV, values_BR1 = with_values(models.actor(part))
        if values_BR1 is not None:
            _put(values_BR, rows, values_BR1[:, :R], part_mask)
        logits_BRV = tempered(logits_BRV, temperature)
        _put(old_BR, rows, token_logprobs(logits_BRV, part.response_ids_BR), part_mask)
        _put(entropy_BR, rows, token_entropy(logits_BRV), part_mask)
        del logits_BRV
        _put(ref_BR, rows, token_logprobs(tempered(models.reference(part), temperature), part.response_ids_BR), part_mask)
        if models.critic is not None:
            _put(values_BR, rows, models.critic(part)[:, :R], part_mask)
        for member, reward in enumerate(rewards):
            scores_MB[member, rows] = final_scores(reward(part), part_mask)
    return {
        "old_logprobs_BR": old_BR, "ref_logprobs_BR": ref_BR, "entropy_BR": entropy_BR, "values_BR": values_BR,
        "score_B": scores_MB.mean(0), "spread_B": scores_MB.std(0, correction=0) if models.further_rewards else None,
    }  # fmt: skip


def with_values(output: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """What an actor said: logits (B, R, V), and values (B, R + 1) when its trunk is the critic's too."""
    return output if isinstance(output, tuple) else (output, None)


def estimate_advantages(rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, config: PPO) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, R) each, by `config.advantage`; rows of one prompt are neighbours."""
    if config.advantage == "gae":
        advantages_BR, returns_BR = gae(rewards_BR, values_BR, mask_BR, gamma=config.gamma, lam=config.gae_lambda)
        return (whiten(advantages_BR, mask_BR) if config.whiten_advantages else advantages_BR), returns_BR
    group_B = torch.arange(len(rewards_BR), device=rewards_BR.device) // config.group_size
    if config.advantage in ("reinforce++", "reinforce++-baseline"):
        baseline_B = group_B if config.advantage == "reinforce++-baseline" else None
        returns_BR = reinforce_plus_plus_advantages(rewards_BR, mask_BR, gamma=config.gamma, group_B=baseline_B)
        return whiten(returns_BR, mask_BR), returns_BR
    if config.advantage == "rloo":
        advantage_B = rloo_advantages(rewards_BR.sum(-1), group_B)
    else:
        advantage_B = grpo_advantages(rewards_BR.sum(-1), group_B, scale_by_std=config.advantage == "grpo")
    advantages_BR = at_tokens(advantage_B, mask_BR)
    return advantages_BR, advantages_BR


def experience_metrics(experience: Experience) -> dict[str, float]:
    """What the rollout says of the policy before this step's update."""
    mask_BR = experience.batch.response_mask_BR
    tokens, rows = int(mask_BR.sum()), len(mask_BR)
    kl = float(masked_sum(experience.kl_BR, mask_BR))
    gap = mismatch(experience.old_logprobs_BR, experience.sampler_logprobs_BR, mask_BR)
    return {
        "ppo/score_mean": float(experience.score_B.mean()),
        "ppo/score_std": float(experience.score_B.std(correction=0)),
        "ppo/reward_mean": float(experience.reward_B.mean()),
        "ppo/kl_per_response": kl / rows,
        "ppo/kl_per_token": kl / tokens,
        "ppo/beta": experience.beta,
        "ppo/response_tokens": tokens / rows,
        "ppo/eos_share": float(experience.ended_B.float().mean()),
        "ppo/entropy": float(masked_sum(experience.entropy_BR, mask_BR)) / tokens,
        "ppo/sampler_logprob_diff": gap.mean_abs_diff,
        "ppo/sampler_logprob_diff_max": gap.max_abs_diff,
        "ppo/sampler_kl": gap.kl_k3,
        "ppo/sampler_effective_share": gap.effective_share,
        "ppo/seconds_scoring": experience.seconds,
    } | ({} if experience.spread_B is None else {"ppo/score_spread": float(experience.spread_B.mean())})


def _importance(old_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor, cap: float | None) -> Tensor:
    return mask_BR.to(old_BR.dtype) if cap is None else truncated_weights(old_BR, sampler_BR, mask_BR, cap=cap)


def _put(target_BR: Tensor, rows: list[int], values_BR: Tensor, mask_BR: Tensor) -> None:
    padded = torch.zeros(len(rows), target_BR.shape[1], device=target_BR.device)
    padded[:, : values_BR.shape[1]] = values_BR.float().masked_fill(~mask_BR, 0.0)
    target_BR[rows] = padded


def _padded(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
