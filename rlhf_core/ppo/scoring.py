"""Scoring: the forward passes of all models over a rollout, without gradients.

Each rank scores its share of the rows, microbatch by microbatch; every rank gets all results.
Axes: B rows, R response tokens, V vocabulary; M reward models.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, Sequence, select
from rlhf_core.batching.collective import summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import PPO
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.modeling.models import final_scores
from rlhf_core.modeling.reading import Reading
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores, scores_of
from rlhf_core.objectives.kl import exact_kl
from rlhf_core.objectives.losses import tempered
from rlhf_core.ppo.rewards import RewardModelScores, RolloutScorer, model_rewards
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.reward.scoring import member_scores


@dataclass(frozen=True)
class Models:
    """PPO's models: engines that learn, models that only score, and the reward functions."""

    actor: Engine
    critic: Engine | None  # None: a head on the actor's trunk, or no critic at all
    reference: Forward
    rewards: tuple[Forward, ...]  # the members of an ensemble; empty: reward functions alone
    functions: RolloutScorer
    reading: Reading | None = None  # of the reward models; None: they read the policy's token ids

    @property
    def engines(self) -> dict[str, Engine]:
        """The engines that learn, by the name that their state has in a checkpoint."""
        return {"actor": self.actor} | ({"critic": self.critic} if self.critic else {})

    def read(self, rollout: Rollout) -> list[Sequence] | None:
        """Return a rollout as the reward models read it; None if they read its own token ids."""
        if self.reading is None:
            return None
        prompts = [record["prompt"] for record in rollout.records]
        responses = [sequence.response for sequence in rollout.sequences]
        return self.reading.sequences(prompts, responses, rollout.ended)


@dataclass(frozen=True)
class ModelOutputs:
    """Results of actor, reference and critic for each response token.

    (B, R) tensors are float32 and 0 at padding. Log-probabilities are nats at the sampling
    temperature.
    """

    # the actor's before this step's update; with old_logprobs = 'sampler' the sampler's
    old_logprobs_BR: Tensor
    ref_logprobs_BR: Tensor  # the frozen SFT model
    exact_kl_BR: Tensor | None  # over the vocabulary, nats; None unless config.kl_exact
    entropy_BR: Tensor | None  # of the actor, over the vocabulary; None without its own pass
    values_BR: Tensor  # critic before each token is emitted; 0 without a critic
    end_values_B: Tensor  # critic after the last token; 0 without a critic

    @property
    def kl_BR(self) -> Tensor:
        """k1 estimate: old_logprobs - ref_logprobs, nats."""
        return self.old_logprobs_BR - self.ref_logprobs_BR


@dataclass(frozen=True)
class _RewardPart:
    """The reward models' results for one microbatch, its padding columns trimmed."""

    rows: list[int]
    mask_BR: Tensor
    scores: list[Tensor]  # (B,) of each reward model
    process_BR: Tensor  # the mean over the reward models


@dataclass(frozen=True)
class _Part(_RewardPart):
    """The results of all models for one microbatch."""

    outputs: ModelOutputs


def score_batch(
    batch: Batch,
    models: Models,
    config: PPO,
    sampler_logprobs_BR: Tensor,
    read: list[Sequence] | None = None,
) -> tuple[ModelOutputs, RewardModelScores]:
    """Run every model once over every sequence; return the results for all rows, on every rank.

    With old_logprobs = 'sampler' the actor makes no pass, and sampler_logprobs_BR are the old ones.
    read: the batch's conversations as the reward models read them; None: as they are in the batch.
    """
    parts = []
    inside = models if read is None else replace(models, rewards=())
    given_BR = None if config.recomputes_old_logprobs else sampler_logprobs_BR
    for rows, counts in _own_rows(batch, config):
        part = _score_rows(batch, rows, inside, config, given_BR)
        if counts:
            parts.append(part)

    def whole(tensor_of: Callable[[_Part], Tensor | None]) -> Tensor:
        target_BR = torch.zeros(batch.response_mask_BR.shape, device=batch.ids_BL.device)
        for part in parts:
            values_BR = tensor_of(part)
            assert values_BR is not None  # every part has what is asked for
            target_BR[part.rows] = _widened(values_BR, part.mask_BR, target_BR.shape[1])
        return summed(target_BR)

    outputs = ModelOutputs(
        old_logprobs_BR=whole(lambda part: part.outputs.old_logprobs_BR),
        ref_logprobs_BR=whole(lambda part: part.outputs.ref_logprobs_BR),
        exact_kl_BR=whole(lambda part: part.outputs.exact_kl_BR) if config.kl_exact else None,
        entropy_BR=whole(lambda part: part.outputs.entropy_BR) if given_BR is None else None,
        values_BR=whole(lambda part: part.outputs.values_BR),
        end_values_B=_end_values(parts, batch),
    )
    process_BR = whole(lambda part: part.process_BR)
    if read is not None:
        return outputs, _read_scores(read, models, config, process_BR=process_BR)
    return outputs, _reward_model_scores(parts, batch, len(models.rewards), process_BR=process_BR)


def score_rewards(
    batch: Batch, models: Models, config: PPO, read: list[Sequence] | None = None
) -> RewardModelScores:
    """Run the reward models alone over every sequence; return the results on every rank.

    read: as in score_batch.
    """
    process_BR = torch.zeros(batch.response_mask_BR.shape, device=batch.ids_BL.device)
    if read is not None:
        return _read_scores(read, models, config, process_BR=process_BR)
    parts = []
    for rows, counts in _own_rows(batch, config):
        part = _reward_rows(batch, rows, models, config)
        if counts:
            parts.append(part)
            process_BR[rows] = _widened(part.process_BR, part.mask_BR, process_BR.shape[1])
    return _reward_model_scores(parts, batch, len(models.rewards), process_BR=summed(process_BR))


def shared_prompts(batch: Batch, config: PPO) -> list[tuple[int, ...]] | None:
    """Return each row's prompt where rows share them; None where each row has its own copy."""
    return batch.prompts if config.share_prompts else None


def _own_rows(batch: Batch, config: PPO) -> list[tuple[list[int], bool]]:
    budget, prompts = config.micro_batch_tokens, shared_prompts(batch, config)
    return own_microbatches(batch.sizes, budget, packing=config.packing, prompts=prompts)


def _end_values(parts: list[_Part], batch: Batch) -> Tensor:
    values_B = torch.zeros(len(batch.ids_BL), device=batch.ids_BL.device)
    for part in parts:
        values_B[part.rows] = part.outputs.end_values_B.float()
    return summed(values_B)


def _read_scores(
    read: list[Sequence], models: Models, config: PPO, *, process_BR: Tensor
) -> RewardModelScores:
    """Return the scores of conversations that the reward models read in a rendering of their own.

    process_BR: 0, because rewards at single tokens need the policy's token ids.
    """
    assert models.reading is not None  # it made `read`
    scores_MB = member_scores(
        models.rewards,
        read,
        models.reading.pad_id,
        config.micro_batch_tokens,
        packing=config.packing,
        share_prompts=config.share_prompts,
    )
    return _of_members(scores_MB.to(process_BR.device), process_BR)


def _reward_model_scores(
    parts: Seq[_RewardPart], batch: Batch, members: int, *, process_BR: Tensor
) -> RewardModelScores:
    scores_MB = torch.zeros(max(1, members), len(batch.ids_BL), device=batch.ids_BL.device)
    for part in parts:
        for member, score_B in enumerate(part.scores):
            scores_MB[member, part.rows] = score_B
    return _of_members(summed(scores_MB), process_BR)


def _of_members(scores_MB: Tensor, process_BR: Tensor) -> RewardModelScores:
    spread_B = scores_MB.std(0, correction=0) if len(scores_MB) > 1 else None
    return RewardModelScores(scores_MB.mean(0), process_BR, spread_B)


def _score_rows(
    batch: Batch, rows: list[int], models: Models, config: PPO, given_BR: Tensor | None
) -> _Part:
    part = select(batch, rows)
    if given_BR is not None:
        given_BR = given_BR[rows][:, : part.response_mask_BR.shape[1]]
    outputs = _outputs(part, models, config, given_BR)
    return _Part(**vars(_reward_rows(batch, rows, models, config)), outputs=outputs)


def _reward_rows(batch: Batch, rows: list[int], models: Models, config: PPO) -> _RewardPart:
    part = select(batch, rows)
    mask_BR = part.response_mask_BR
    scores, process_BR = [], torch.zeros(mask_BR.shape, device=mask_BR.device)
    for reward in models.rewards:
        score_B, token_BR = model_rewards(reward(part), mask_BR, config.reward.model_at)
        scores.append(score_B)
        process_BR = process_BR + token_BR / len(models.rewards)
    return _RewardPart(rows, mask_BR, scores, process_BR)


def _outputs(part: Batch, models: Models, config: PPO, given_BR: Tensor | None) -> ModelOutputs:
    """Run actor, reference and critic; logits are whole for the exact KL only, which takes two.

    given_BR: the old log-probabilities, where the actor need not run for them.
    """
    query = TokenQuery(config.sampling.temperature, entropy=True)
    exact_kl_BR = None
    if config.kl_exact:
        actor, reference, exact_kl_BR = _with_exact_kl(part, models, query)
    else:
        actor = _actor_scores(part, models, config, query, given_BR)
        reference = models.reference(part, query=replace(query, entropy=False))
    ids_BR, values_BR1 = part.response_ids_BR, actor.values_BR1
    if models.critic is not None:
        values_BR1 = models.critic.infer(part)
    if values_BR1 is None:
        values_BR1 = torch.zeros(len(ids_BR), ids_BR.shape[1] + 1, device=ids_BR.device)
    return ModelOutputs(
        old_logprobs_BR=actor.logprobs_BR,
        ref_logprobs_BR=reference.logprobs_BR,
        exact_kl_BR=exact_kl_BR,
        entropy_BR=actor.entropy_BR,
        values_BR=values_BR1[:, : ids_BR.shape[1]],
        end_values_B=final_scores(values_BR1, part.response_mask_BR),
    )


def _actor_scores(
    part: Batch, models: Models, config: PPO, query: TokenQuery, given_BR: Tensor | None
) -> TokenScores:
    """Run the actor; with given_BR for the values of a shared critic alone, if at all."""
    if given_BR is None:
        return models.actor.infer(part, query=query)
    values_BR1 = models.actor.infer(part, "critic") if config.shares_critic else None
    return TokenScores(given_BR, values_BR1=values_BR1)


def _with_exact_kl(
    part: Batch, models: Models, query: TokenQuery
) -> tuple[TokenScores, TokenScores, Tensor]:
    """Return the scores of actor and reference, and the KL over the whole vocabulary, (B, R)."""
    ids_BR = part.response_ids_BR
    logits_BRV, values_BR1 = logits_and_values(models.actor.infer(part))
    actor = scores_of(logits_BRV, ids_BR, query)._replace(values_BR1=values_BR1)
    ref_logits_BRV = models.reference(part)
    reference = scores_of(ref_logits_BRV, ids_BR, replace(query, entropy=False))
    exact_kl_BR = _exact_kl(
        tempered(logits_BRV, query.temperature),
        tempered(ref_logits_BRV, query.temperature),
        part.response_mask_BR,
    )
    return actor, reference, exact_kl_BR


def _exact_kl(logits_BRV: Tensor, ref_logits_BRV: Tensor, mask_BR: Tensor) -> Tensor:
    """Return the KL at each token, row by row: one row takes four more such tensors of memory."""
    rows = zip(logits_BRV.split(1), ref_logits_BRV.split(1), mask_BR.split(1), strict=True)
    return torch.cat([exact_kl(*row) for row in rows])


def logits_and_values(output: Tensor | tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor | None]:
    """Return an actor's whole logits (B, R, V), and its values (B, R + 1) or None.

    Values come in the same pass when the actor's trunk is the critic's too.
    """
    return output if isinstance(output, tuple) else (output, None)


def _widened(values_BR: Tensor, mask_BR: Tensor, width: int) -> Tensor:
    padded = torch.zeros(len(values_BR), width, device=values_BR.device)
    padded[:, : values_BR.shape[1]] = values_BR.float().masked_fill(~mask_BR, 0.0)
    return padded
