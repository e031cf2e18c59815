"""Experience: a rollout with all that the update learns from."""

import time
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, collate, select
from rlhf_core.config import PPO
from rlhf_core.objectives.advantages import Moments
from rlhf_core.ppo.estimators import Estimates, estimate, learned_rows
from rlhf_core.ppo.rewards import (
    NO_SCORES,
    RewardModelScores,
    ShapedRewards,
    padded_rows,
    shape_rewards,
)
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import ModelOutputs, Models, score_batch


@dataclass(frozen=True)
class ExperienceRows:
    """The tensors that the update needs of some rows; padding columns are trimmed.

    (B, R) tensors as in ModelOutputs and Estimates.
    """

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
    """One rollout, scored. Tensors are float32; masks are in `batch`."""

    batch: Batch
    ended_B: Tensor  # bool, by end-of-text
    learned_B: Tensor  # bool; the losses leave the other rows out
    sampler_logprobs_BR: Tensor  # by the sampler, of the distribution that it sampled from
    outputs: ModelOutputs
    reward_model: RewardModelScores
    rewards: ShapedRewards
    estimates: Estimates
    beta: float  # KL coefficient of this step, score per nat
    seconds: float

    @property
    def reward_B(self) -> Tensor:
        """Sum of the shaped token rewards, KL penalty included."""
        return self.estimates.rewards_BR.masked_fill(~self.batch.response_mask_BR, 0.0).sum(-1)

    def rows(self, rows: list[int]) -> ExperienceRows:
        """Return the part of some rows that the update needs."""
        batch = select(self.batch, rows)
        R = batch.response_mask_BR.shape[1]
        return ExperienceRows(
            batch=batch,
            old_logprobs_BR=self.outputs.old_logprobs_BR[rows][:, :R],
            ref_logprobs_BR=self.outputs.ref_logprobs_BR[rows][:, :R],
            values_BR=self.outputs.values_BR[rows][:, :R],
            advantages_BR=self.estimates.advantages_BR[rows][:, :R],
            returns_BR=self.estimates.returns_BR[rows][:, :R],
            importance_BR=self.estimates.importance_BR[rows][:, :R],
            beta=self.beta,
        )


@torch.no_grad()
def make_experience(
    rollout: Rollout,
    models: Models,
    config: PPO,
    *,
    beta: float,
    pad_id: int,
    running: Moments = NO_SCORES,
) -> Experience:
    """Run all models once over every sequence, shape the rewards, and estimate advantages.

    Rows of one prompt are neighbours, `config.group_size` at a time.
    beta: KL coefficient, score per nat. running: the moments of all scores before this rollout.
    """
    started = time.monotonic()
    batch = collate(rollout.sequences, pad_id)
    mask_BR = batch.response_mask_BR
    ended_B = torch.tensor(rollout.ended, device=mask_BR.device)
    sampler_BR = padded_rows(rollout.sampler_logprobs, mask_BR.shape[1]).to(mask_BR.device)
    outputs, reward_model = score_batch(batch, models, config, sampler_BR, models.read(rollout))
    kept = rollout.selection
    scores = models.functions(rollout) if kept is None else kept.functions
    rewards = shape_rewards(reward_model, scores, mask_BR, ended_B, config, running)
    estimates = estimate(outputs, rewards, sampler_BR, mask_BR, config, beta)
    return Experience(
        batch=batch,
        ended_B=ended_B,
        learned_B=learned_rows(rewards.cut_B, config),
        sampler_logprobs_BR=sampler_BR,
        outputs=outputs,
        reward_model=reward_model,
        rewards=rewards,
        estimates=estimates,
        beta=beta,
        seconds=time.monotonic() - started,
    )
