"""The losses of actor and critic for some rows of a minibatch, and what a minibatch divides by."""

from typing import NamedTuple

from torch import Tensor

from rlhf_core.config import PPO
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores
from rlhf_core.objectives.kl import token_kl
from rlhf_core.objectives.losses import (
    aggregate,
    clipped_importance,
    clipped_surrogate,
    clipped_value_error,
    probability_ratio,
    sequence_ratio,
    step_denominator,
    token_mean,
)
from rlhf_core.ppo.experience import ExperienceRows


class Denominators(NamedTuple):
    """The numbers by which one optimizer step divides, over all its microbatches and ranks."""

    tokens: int  # of the value loss and of means over response tokens
    policy: int  # of the policy loss, by config.aggregation
    read: int  # of a router's loss: tokens that the model reads, prompts included

    @classmethod
    def of(cls, mask_BR: Tensor, config: PPO, *, read: int) -> "Denominators":
        """Return those of a whole minibatch; mask_BR: its real response tokens."""
        length = config.sampling.max_new_tokens
        return cls(
            tokens=step_denominator(mask_BR, "tokens", length=length),
            policy=step_denominator(mask_BR, config.aggregation, length=length),
            read=read,
        )


def policy_query(config: PPO) -> TokenQuery:
    """Return what the actor's loss asks of the actor."""
    return TokenQuery(config.sampling.temperature, entropy=config.entropy_coef > 0)


def policy_objective(
    scores: TokenScores, rows: ExperienceRows, config: PPO, denominator: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the actor's loss, the surrogate in it, and the new log-probabilities, (B, R).

    scores: the actor's, of what `policy_query` asks.
    A token's loss is importance * surrogate + beta * KL (with kl_in = "loss") - entropy_coef *
    entropy; `token_losses` gives the surrogate. `config.aggregation` adds them up, and
    `denominator` counts the whole optimizer step.
    """
    mask_BR, logprobs_BR = rows.batch.response_mask_BR, scores.logprobs_BR

    def total(loss_BR: Tensor) -> Tensor:
        return aggregate(loss_BR, mask_BR, config.aggregation, denominator)

    surrogate_BR = token_losses(logprobs_BR, rows, config)
    surrogate = loss = total(rows.importance_BR * surrogate_BR)
    if config.kl_in == "loss":
        kl_BR = token_kl(logprobs_BR, rows.ref_logprobs_BR, mask_BR, config.kl_estimator)
        loss = loss + rows.beta * total(kl_BR)
    if scores.entropy_BR is not None:
        loss = loss - config.entropy_coef * total(scores.entropy_BR)
    return loss, surrogate.detach(), logprobs_BR.detach()


def token_losses(new_logprobs_BR: Tensor, rows: ExperienceRows, config: PPO) -> Tensor:
    """Return the loss of each token by `config.policy_loss`, (B, R)."""
    mask_BR, advantages_BR = rows.batch.response_mask_BR, rows.advantages_BR
    low, high = config.clip_range
    ratio_BR = policy_ratio(new_logprobs_BR, rows, config)
    if config.policy_loss == "cispo":
        return clipped_importance(
            new_logprobs_BR, ratio_BR, advantages_BR, mask_BR, clip_low=low, clip_high=high
        )
    return clipped_surrogate(
        ratio_BR, advantages_BR, clip_low=low, clip_high=high, dual_clip=config.dual_clip
    )


def policy_ratio(new_logprobs_BR: Tensor, rows: ExperienceRows, config: PPO) -> Tensor:
    """Return the ratio that the policy loss clips, (B, R): each token's, or its response's."""
    ratio = sequence_ratio if config.policy_loss == "gspo" else probability_ratio
    return ratio(new_logprobs_BR, rows.old_logprobs_BR, rows.batch.response_mask_BR)


def clipped_share(
    new_logprobs_BR: Tensor, rows: ExperienceRows, config: PPO, tokens: float
) -> float:
    """Return the number of these rows' tokens whose ratio is out of the clip's range / tokens."""
    low, high = config.clip_range
    moved_BR = policy_ratio(new_logprobs_BR, rows, config) - 1
    clipped_BR = (moved_BR > high) | (moved_BR < -low)
    return float(clipped_BR[rows.batch.response_mask_BR].sum()) / tokens


def value_objective(
    values_BR1: Tensor, rows: ExperienceRows, config: PPO, tokens: float
) -> tuple[Tensor, float]:
    """Return the critic's loss, and the share of tokens whose value was clipped.

    Both are sums over these rows / tokens, the response tokens of the whole optimizer step.
    """
    mask_BR = rows.batch.response_mask_BR
    new_values_BR = values_BR1[:, : mask_BR.shape[1]]
    error_BR = clipped_value_error(
        new_values_BR, rows.values_BR, rows.returns_BR, mask_BR, clip=config.value_clip
    )
    loss = token_mean(error_BR, mask_BR, tokens)
    if config.value_clip is None:
        return loss, 0.0
    moved_BR = (new_values_BR.detach() - rows.values_BR).abs()
    return loss, float((moved_BR > config.value_clip)[mask_BR].sum()) / tokens
