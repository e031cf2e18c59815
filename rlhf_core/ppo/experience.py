"""From responses to what PPO learns from: log-probabilities, values, scores, rewards, advantages,
returns.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, collate, select
from rlhf_core.batching.collective import summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import PPO
from rlhf_core.objectives.advantages import (
    Moments,
    at_tokens,
    gae,
    grpo_advantages,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from rlhf_core.objectives.importance import mismatch, truncated_weights
from rlhf_core.objectives.kl import exact_kl, token_kl
from rlhf_core.objectives.losses import masked_sum, tempered, token_entropy, token_logprobs
from rlhf_core.ppo.rewards import NO_SCORES, RewardFunctions, model_rewards, weigh
from rlhf_core.ppo.rollout import Rollout

Forward = Callable[[Batch], Tensor]


@dataclass(frozen=True)
class Models:
    """The forward passes that score a rollout, without gradients, and the recipe's reward
    functions.
    """

    actor: Forward  # logits; (logits, values) where the critic is a head on its trunk
    critic: Forward | None
    reward: Forward | None  # None: reward functions alone
    reference: Forward
    further_rewards: tuple[
        Forward, ...
    ] = ()  # the other members of an ensemble, whose mean is the score
    functions: RewardFunctions = lambda rollout: []  # reward functions


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
    # reward model's whole-response score, mean over an ensemble; 0 without, and with process
    # rewards
    model_score_B: Tensor
    spread_B: Tensor | None  # standard deviation of it over the ensemble; None for one reward model
    function_scores_BF: Tensor  # what each reward function said of a response, before its weight
    score_B: Tensor  # weighted sum of model and functions, process rewards included; before shaping
    final_B: (
        Tensor  # paid at the last token: the score centred, scaled, clipped, less the penalties
    )
    process_BR: Tensor  # paid at each token, scaled and clipped; 0 without process rewards
    running: Moments  # of all scores so far, this rollout's included
    sampler_logprobs_BR: Tensor  # what the sampler says it sampled from
    old_logprobs_BR: Tensor  # the actor before this step's update
    ref_logprobs_BR: Tensor  # the frozen SFT model
    exact_kl_BR: Tensor | None  # over the vocabulary, nats; None unless config.kl_exact
    entropy_BR: Tensor  # of the actor, over the vocabulary
    values_BR: Tensor  # critic before each token is emitted; 0 without a critic
    advantages_BR: Tensor  # by config.advantage; GAE is whitened when configured
    returns_BR: Tensor  # GAE + values; without a critic the advantages before whitening
    importance_BR: (
        Tensor  # weight of each token's policy loss: truncated trainer / sampler ratio, or 1
    )
    # -beta * KL (with kl_in "reward") and process reward at every token, final_B at the last one
    rewards_BR: Tensor
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
        return Part(
            batch,
            **{f"{name}_BR": getattr(self, f"{name}_BR")[rows][:, :R] for name in names},
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
    """Run the models once over every sequence and shape rewards; beta in score per nat, running:
    moments of earlier scores.

    Rows of one prompt are neighbours, `config.group_size` at a time.
    """
    started = time.monotonic()
    batch = collate(rollout.sequences, pad_id)
    mask_BR = batch.response_mask_BR
    scored = _score(batch, models, config)
    old_BR, ref_BR, values_BR = (
        scored["old_logprobs_BR"],
        scored["ref_logprobs_BR"],
        scored["values_BR"],
    )
    ended_B = torch.tensor(rollout.ended, device=mask_BR.device)
    model = (scored["model_score_B"], scored.pop("model_process_BR"))
    worth = weigh(model, models.functions(rollout), mask_BR, ended_B, config, running)
    if (
        config.uncertainty_penalty
    ):  # Coste et al. 2023, arXiv:2310.02743, eq. 5: mean - coefficient * variance
        worth = replace(
            worth, final_B=worth.final_B - config.uncertainty_penalty * scored["spread_B"] ** 2
        )
    kl_BR = token_kl(old_BR, ref_BR, mask_BR, config.kl_estimator)
    rewards_BR = (
        token_rewards(worth.final_B, kl_BR, mask_BR, beta if config.kl_in == "reward" else 0.0)
        + worth.process_BR
    )
    advantages_BR, returns_BR = estimate_advantages(rewards_BR, values_BR, mask_BR, config)
    sampler_BR = _padded(rollout.sampler_logprobs, mask_BR.shape[1]).to(mask_BR.device)
    return Experience(
        batch=batch,
        ended_B=ended_B,
        sampler_logprobs_BR=sampler_BR,
        advantages_BR=advantages_BR,
        returns_BR=returns_BR,
        importance_BR=_importance(old_BR, sampler_BR, mask_BR, config),
        rewards_BR=rewards_BR,
        beta=beta,
        seconds=time.monotonic() - started,
        **vars(worth),
        **scored,
    )


def _score(batch: Batch, models: Models, config: PPO) -> dict[str, Tensor | None]:
    """What the models say of every sequence; log-probabilities at the sampling temperature.

    Each rank scores its share of the rows, microbatch by microbatch; every rank gets all.
    """
    mask_BR, members = (
        batch.response_mask_BR,
        [model for model in (models.reward, *models.further_rewards) if model],
    )
    names = (
        "old_logprobs_BR",
        "ref_logprobs_BR",
        "entropy_BR",
        "values_BR",
        "exact_kl_BR",
        "model_process_BR",
    )
    found = {name: torch.zeros(mask_BR.shape, device=mask_BR.device) for name in names}
    scores_MB = torch.zeros(max(1, len(members)), len(mask_BR), device=mask_BR.device)
    for rows, counts in own_microbatches(batch.sizes, config.micro_batch_tokens):
        part = select(batch, rows)
        said, scores = _score_part(part, models, members, config)
        if not counts:
            continue
        for name, values_BR in said.items():
            _put(found[name], rows, values_BR, part.response_mask_BR)
        for member, score_B in enumerate(scores):
            scores_MB[member, rows] = score_B
    found, scores_MB = (
        {name: summed(values_BR) for name, values_BR in found.items()},
        summed(scores_MB),
    )
    found |= {
        "model_score_B": scores_MB.mean(0),
        "spread_B": None,
        "exact_kl_BR": found["exact_kl_BR"] if config.kl_exact else None,
    }
    return found | ({"spread_B": scores_MB.std(0, correction=0)} if models.further_rewards else {})


def _score_part(
    part: Batch, models: Models, members: list[Forward], config: PPO
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """The forward passes over one microbatch: (B, R) tensors, and each reward model's scores, (B,)."""
    said, scores = _divergence(part, models, config), []
    if models.critic is not None:
        said["values_BR"] = models.critic(part)[:, : part.response_mask_BR.shape[1]]
    for reward in members:
        score_B, process_BR = model_rewards(
            reward(part), part.response_mask_BR, config.reward.model_at
        )
        scores.append(score_B)
        said["model_process_BR"] = said.get("model_process_BR", 0.0) + process_BR / len(members)
    return said, scores


def _divergence(part: Batch, models: Models, config: PPO) -> dict[str, Tensor]:
    """What actor and reference say of some rows' tokens; one tensor of logits in memory at a time,
    two for the exact KL.
    """
    temperature, ids_BR = config.sampling.temperature, part.response_ids_BR
    logits_BRV, values_BR1 = with_values(models.actor(part))
    logits_BRV = tempered(logits_BRV, temperature)
    found = {
        "old_logprobs_BR": token_logprobs(logits_BRV, ids_BR),
        "entropy_BR": token_entropy(logits_BRV),
    }
    if values_BR1 is not None:
        found["values_BR"] = values_BR1[:, :-1]
    kept_BRV = logits_BRV if config.kl_exact else None
    del logits_BRV
    ref_logits_BRV = tempered(models.reference(part), temperature)
    found["ref_logprobs_BR"] = token_logprobs(ref_logits_BRV, ids_BR)
    if kept_BRV is not None:
        by_row = zip(
            kept_BRV.split(1), ref_logits_BRV.split(1), part.response_mask_BR.split(1), strict=True
        )
        found["exact_kl_BR"] = torch.cat(
            [exact_kl(*row) for row in by_row]
        )  # it holds four more of these tensors
    return found


def with_values(output: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """What an actor said: logits (B, R, V), and values (B, R + 1) when its trunk is the critic's
    too.
    """
    return output if isinstance(output, tuple) else (output, None)


def estimate_advantages(
    rewards_BR: Tensor, values_BR: Tensor, mask_BR: Tensor, config: PPO
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, (B, R) each, by `config.advantage`; rows of one prompt are
    neighbours.
    """
    if config.advantage == "gae":
        advantages_BR, returns_BR = gae(
            rewards_BR, values_BR, mask_BR, gamma=config.gamma, lam=config.gae_lambda
        )
        return (
            whiten(advantages_BR, mask_BR) if config.whiten_advantages else advantages_BR
        ), returns_BR
    group_B = torch.arange(len(rewards_BR), device=rewards_BR.device) // config.group_size
    if config.advantage in ("reinforce++", "reinforce++-baseline"):
        baseline_B = group_B if config.advantage == "reinforce++-baseline" else None
        returns_BR = reinforce_plus_plus_advantages(
            rewards_BR, mask_BR, gamma=config.gamma, group_B=baseline_B
        )
        return whiten(returns_BR, mask_BR), returns_BR
    if config.advantage == "rloo":
        advantage_B = rloo_advantages(rewards_BR.sum(-1), group_B)
    else:
        advantage_B = grpo_advantages(
            rewards_BR.sum(-1), group_B, scale_by_std=config.advantage == "grpo"
        )
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
    } | (
        {}
        if experience.spread_B is None
        else {"ppo/score_spread": float(experience.spread_B.mean())}
    )


def _importance(old_BR: Tensor, sampler_BR: Tensor, mask_BR: Tensor, config: PPO) -> Tensor:
    if config.importance_cap is None:
        return mask_BR.to(old_BR.dtype)
    return truncated_weights(
        old_BR, sampler_BR, mask_BR, cap=config.importance_cap, level=config.importance_level
    )


def _put(target_BR: Tensor, rows: list[int], values_BR: Tensor, mask_BR: Tensor) -> None:
    padded = torch.zeros(len(rows), target_BR.shape[1], device=target_BR.device)
    padded[:, : values_BR.shape[1]] = values_BR.float().masked_fill(~mask_BR, 0.0)
    target_BR[rows] = padded


def _padded(rows: list[list[float]], width: int) -> Tensor:
    return torch.tensor([row + [0.0] * (width - len(row)) for row in rows])
