"""From responses to what PPO learns from: log-probabilities, values, scores, rewards, advantages, returns."""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batch import Batch, collate, microbatches, select
from rlhf_core.config import PPO
from rlhf_core.losses import gae, masked_sum, token_entropy, token_logprobs, token_rewards, whiten
from rlhf_core.models import final_scores
from rlhf_core.ppo.rollout import Rollout

Forward = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Experience:
    """One rollout, scored. (B, R) tensors are float32 and 0 at padding; masks are in `batch`."""

    batch: Batch
    ended_B: Tensor  # bool, by end-of-text
    score_B: Tensor  # reward model at the last response token
    sampler_logprobs_BR: Tensor  # what vLLM says it sampled from
    old_logprobs_BR: Tensor  # the actor before this step's update
    ref_logprobs_BR: Tensor  # the frozen SFT model
    entropy_BR: Tensor  # of the actor, over the vocabulary
    values_BR: Tensor  # critic before each token is emitted
    advantages_BR: Tensor  # GAE, whitened when configured
    returns_BR: Tensor  # GAE + values, before whitening
    reward_B: Tensor  # sum of the shaped token rewards
    seconds: float

    @property
    def kl_BR(self) -> Tensor:
        """k1 estimate: old_logprobs - ref_logprobs, nats."""
        return self.old_logprobs_BR - self.ref_logprobs_BR

    def rows(self, rows: list[int]) -> tuple[Batch, dict[str, Tensor]]:
        """The batch and the (B, R) tensors that an update needs, for some rows, padding columns trimmed."""
        batch = select(self.batch, rows)
        R = batch.response_mask_BR.shape[1]
        names = ("old_logprobs_BR", "values_BR", "advantages_BR", "returns_BR")
        return batch, {name: getattr(self, name)[rows][:, :R] for name in names}


@torch.no_grad()
def make_experience(
    rollout: Rollout, *, actor: Forward, critic: Forward, reward: Forward, reference: Forward, config: PPO,
    beta: float, pad_id: int,
) -> Experience:  # fmt: skip
    """Run the four models once over every sequence and shape rewards; beta in score per nat."""
    started = time.monotonic()
    batch = collate(rollout.sequences, pad_id)
    mask_BR = batch.response_mask_BR
    old_BR, ref_BR, entropy_BR, values_BR = (torch.zeros(mask_BR.shape, device=mask_BR.device) for _ in range(4))
    score_B = torch.zeros(len(mask_BR), device=mask_BR.device)
    for rows in microbatches([s.size for s in rollout.sequences], config.micro_batch_tokens):
        part = select(batch, rows)
        R, part_mask = part.response_mask_BR.shape[1], part.response_mask_BR
        logits_BRV = actor(part)
        _put(old_BR, rows, token_logprobs(logits_BRV, part.response_ids_BR), part_mask)
        _put(entropy_BR, rows, token_entropy(logits_BRV), part_mask)
        del logits_BRV
        _put(ref_BR, rows, token_logprobs(reference(part), part.response_ids_BR), part_mask)
        _put(values_BR, rows, critic(part)[:, :R], part_mask)
        score_B[rows] = final_scores(reward(part), part_mask)
    ended_B = torch.tensor(rollout.ended, device=mask_BR.device)
    final_B = score_B - config.missing_eos_penalty * (~ended_B)
    rewards_BR = token_rewards(final_B, old_BR - ref_BR, mask_BR, beta)
    advantages_BR, returns_BR = gae(rewards_BR, values_BR, mask_BR, gamma=config.gamma, lam=config.gae_lambda)
    return Experience(
        batch=batch,
        ended_B=ended_B,
        score_B=score_B,
        sampler_logprobs_BR=_padded(rollout.sampler_logprobs, mask_BR.shape[1]).to(mask_BR.device),
        old_logprobs_BR=old_BR,
        ref_logprobs_BR=ref_BR,
        entropy_BR=entropy_BR,
        values_BR=values_BR,
        advantages_BR=whiten(advantages_BR, mask_BR) if config.whiten_advantages else advantages_BR,
        returns_BR=returns_BR,
        reward_B=rewards_BR.sum(-1),
        seconds=time.monotonic() - started,
    )


def experience_metrics(experience: Experience, beta: float) -> dict[str, float]:
    """What the rollout says of the policy before this step's update."""
    mask_BR = experience.batch.response_mask_BR
    tokens, rows = int(mask_BR.sum()), len(mask_BR)
    kl = float(masked_sum(experience.kl_BR, mask_BR))
    gap_BR = (experience.sampler_logprobs_BR - experience.old_logprobs_BR).abs()
    return {
        "ppo/score_mean": float(experience.score_B.mean()),
        "ppo/score_std": float(experience.score_B.std(correction=0)),
        "ppo/reward_mean": float(experience.reward_B.mean()),
        "ppo/kl_per_response": kl / rows,
        "ppo/kl_per_token": kl / tokens,
        "ppo/beta": beta,
        "ppo/response_tokens": tokens / rows,
        "ppo/eos_share": float(experience.ended_B.float().mean()),
        "ppo/entropy": float(masked_sum(experience.entropy_BR, mask_BR)) / tokens,
        "ppo/sampler_logprob_diff": float(masked_sum(gap_BR, mask_BR)) / tokens,
        "ppo/sampler_logprob_diff_max": float(gap_BR[mask_BR].max()),
        "ppo/seconds_scoring": experience.seconds,
    }


def _put(target_BR: Tensor, rows: list[int], values_BR: Tensor, mask_BR: Tensor) -> None:
    padded = torch.zeros(len(rows), target_BR.shape[1], device=target_BR.device)
    padded[:, : values_BR.shape[1]] = values_BR.float().masked_fill(~mask_BR, 0.0)
    target_BR[rows] = padded


def _padded(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
