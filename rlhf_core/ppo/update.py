"""The update: epochs of minibatches over one experience.

The actor descends the clipped surrogate, the critic the clipped value loss.
"""

import time
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.batching.batch import order, select
from rlhf_core.batching.collective import gathered, total
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import PPO
from rlhf_core.engine.base import Engine
from rlhf_core.objectives.advantages import explained_variance
from rlhf_core.objectives.losses import masked_sum
from rlhf_core.ppo.experience import Experience, ExperienceRows
from rlhf_core.ppo.metrics import SamplerGap
from rlhf_core.ppo.objective import (
    Denominators,
    clipped_share,
    policy_objective,
    policy_query,
    value_objective,
)
from rlhf_core.ppo.scoring import Models, shared_prompts
from rlhf_core.seeds import minibatch_seed


def update(
    models: Models, experience: Experience, config: PPO, *, step: int, seed: int
) -> dict[str, float]:
    """Make `config.epochs` passes; return the step's update metrics.

    Every minibatch is one optimizer step of each model. During the first `critic_warmup_steps` only
    the critic learns; of a shared trunk, only its value head. So it is after the minibatch that
    exceeds `max_kl_update`, until the step's end. Without a row to learn from nothing is done.
    """
    started, rows = time.monotonic(), experience.learned_B.nonzero().flatten().tolist()
    policy_lr = config.policy_lr * min(1.0, step / max(1, config.warmup_steps))
    if not rows:
        return {"ppo/policy_lr": 0.0, "ppo/seconds_update": time.monotonic() - started}
    actor_learns = actor_goes_on = step > config.critic_warmup_steps
    sums: dict[str, list[float]] = defaultdict(list)
    gap = None if config.recomputes_old_logprobs else SamplerGap(experience)
    for minibatch in _minibatches(rows, config, seed=minibatch_seed(seed, step)):
        if not actor_goes_on and not config.has_critic:
            break
        part = _Minibatch.of(experience, minibatch, config)
        seen = gap if actor_goes_on and not sums else None
        totals = _actor_pass(models.actor, part, config, actor_learns=actor_goes_on, gap=seen)
        norm = _actor_step(models.actor, policy_lr, config, actor_learns=actor_goes_on)
        norms = {"policy_grad_norm": norm} if actor_goes_on else {}
        if models.critic is not None:  # after the actor's step: one model's gradients at a time
            totals |= _critic_pass(models.critic, part, config)
            norms["critic_grad_norm"] = models.critic.step(config.critic_lr)
        for name, value in (totals | norms).items():
            sums[name].append(value)
        actor_goes_on = actor_goes_on and not exceeds_max_kl(totals["approx_kl_update"], config)
    metrics = _update_metrics(sums, experience, config)
    metrics["ppo/policy_lr"] = policy_lr if actor_learns else 0.0
    metrics |= gap.metrics() if gap and actor_learns else {}
    return metrics | {"ppo/seconds_update": time.monotonic() - started}


def _minibatches(rows: list[int], config: PPO, *, seed: int) -> Iterator[list[int]]:
    """Yield each minibatch's part of `rows`, in a new order in each epoch."""
    count = len(rows)
    for epoch in range(config.epochs):
        permutation = torch.tensor(order(count, seed=seed, epoch=epoch))
        for minibatch in permutation.tensor_split(min(config.minibatches, count)):
            yield [rows[place] for place in minibatch.tolist()]


def _update_metrics(
    sums: dict[str, list[float]], experience: Experience, config: PPO
) -> dict[str, float]:
    """Return the means over the minibatches, and what is known of the whole step."""
    metrics = {f"ppo/{name}": sum(values) / len(values) for name, values in sums.items()}
    metrics |= {"ppo/ratio_max": max(sums["ratio_max"]), "ppo/ratio_min": min(sums["ratio_min"])}
    metrics.setdefault("ppo/policy_grad_norm", 0.0)
    if config.max_kl_update is not None:
        metrics["ppo/policy_updates"] = len(sums["policy_grad_norm"])
    if config.has_critic:
        metrics["ppo/critic_lr"] = config.critic_lr
        metrics["ppo/explained_variance"] = explained_variance(
            experience.outputs.values_BR,
            experience.estimates.returns_BR,
            experience.batch.response_mask_BR & experience.learned_B[:, None],
        )
    return metrics


def _actor_step(actor: Engine, lr: float, config: PPO, *, actor_learns: bool) -> float:
    """Take the actor's optimizer step; return the gradient norm, 0 while the actor does not learn.

    The head of a shared critic takes its step with it.
    """
    if config.shares_critic:
        norm = actor.step(lr if actor_learns else 0.0, head_lr=config.critic_lr)
        return norm if actor_learns else 0.0
    return actor.step(lr) if actor_learns else 0.0


def exceeds_max_kl(approx_kl: float, config: PPO) -> bool:
    """Say if the actor stops for this step, after the minibatch that showed this KL.

    approx_kl: from the rollout's policy (k3, nats per token). The minibatch's own step is taken, as
    in trl 0.11.4 (`early_stopping`) and CleanRL (`target_kl`).
    """
    return config.max_kl_update is not None and approx_kl > config.max_kl_update


class _Minibatch(NamedTuple):
    """The rows of one optimizer step, and what their losses are divided by."""

    experience: Experience
    rows: list[int]
    denominators: Denominators

    @classmethod
    def of(cls, experience: Experience, rows: list[int], config: PPO) -> "_Minibatch":
        """Return the minibatch of these rows; its denominators count all of them."""
        read = sum(sum(experience.batch.sizes[row]) for row in rows)
        mask_BR = experience.batch.response_mask_BR[rows]
        return cls(experience, rows, Denominators.of(mask_BR, config, read=read))

    def own_parts(self, config: PPO) -> Iterator[tuple[list[int], ExperienceRows, bool]]:
        """Yield the rows, and what they learn from, of this rank's microbatches, similar in length.

        The last value is False for a pass that is made only because other ranks have one to make.
        """
        batch = select(self.experience.batch, self.rows)
        sizes, prompts = batch.sizes, shared_prompts(batch, config)
        budget, packing = config.micro_batch_tokens, config.packing
        for indices, counts in own_microbatches(sizes, budget, packing=packing, prompts=prompts):
            rows = [self.rows[i] for i in indices]
            yield rows, self.experience.rows(rows), counts


def _actor_pass(
    actor: Engine, minibatch: _Minibatch, config: PPO, *, actor_learns: bool, gap: SamplerGap | None
) -> dict[str, float]:
    """Run the actor's backward passes of this rank's share; return totals over all ranks.

    gap: gets the log-probabilities of the rows. While the actor does not learn, the value head of a
    shared critic does alone.
    """
    denominators, totals = minibatch.denominators, _no_totals()
    for indices, rows, counts in minibatch.own_parts(config):
        sums = totals if counts else _no_totals()
        if actor_learns:
            new_BR = _actor_backward(actor, rows, config, denominators, sums, counts=counts)
            if gap and counts:
                gap.add(indices, new_BR)
        elif config.shares_critic:
            values_BR1 = actor(rows.batch, "critic")
            loss = _value_loss(values_BR1, rows, config, denominators.tokens, sums)
            actor.backward(loss, counts=counts)
    return _over_ranks(totals | actor.module.router_metrics())


def _critic_pass(critic: Engine, minibatch: _Minibatch, config: PPO) -> dict[str, float]:
    """Run the critic's backward passes of this rank's share; return totals over all ranks."""
    denominators = minibatch.denominators
    totals: dict[str, float] = defaultdict(float)
    for _, rows, counts in minibatch.own_parts(config):
        sums = totals if counts else defaultdict(float)
        loss = _value_loss(critic(rows.batch), rows, config, denominators.tokens, sums)
        loss = critic.module.with_router_loss(loss, denominators.read, counts=counts)
        critic.backward(loss, counts=counts)
    metrics = {f"critic_{k}": value for k, value in critic.module.router_metrics().items()}
    return total(totals | metrics)


def _no_totals() -> dict[str, float]:
    return defaultdict(float, ratio_max=1.0, ratio_min=1.0)


def _over_ranks(totals: dict[str, float]) -> dict[str, float]:
    ratios = gathered([totals["ratio_max"], totals["ratio_min"]])
    return total(totals) | {
        "ratio_max": max(high for high, _ in ratios),
        "ratio_min": min(low for _, low in ratios),
    }


def _actor_backward(
    actor: Engine,
    rows: ExperienceRows,
    config: PPO,
    denominators: Denominators,
    totals: dict[str, float],
    *,
    counts: bool,
) -> Tensor:
    """Run one backward pass, and add to the totals; return the new log-probabilities, (B, R)."""
    mask_BR, tokens = rows.batch.response_mask_BR, denominators.tokens
    scores = actor(rows.batch, query=policy_query(config))
    loss, surrogate, new_logprobs_BR = policy_objective(scores, rows, config, denominators.policy)
    if scores.values_BR1 is not None:
        value_loss = _value_loss(scores.values_BR1, rows, config, tokens, totals)
        loss = loss + config.value_coef * value_loss
    totals["policy_loss"] += float(surrogate)
    whole = actor.module.with_router_loss(loss, denominators.read, counts=counts)
    actor.backward(whole, counts=counts)
    log_ratio_BR = (new_logprobs_BR - rows.old_logprobs_BR).masked_fill(~mask_BR, 0.0)
    ratio_BR = log_ratio_BR.exp()
    totals["policy_clip_fraction"] += clipped_share(new_logprobs_BR, rows, config, tokens)
    totals["approx_kl_update"] += float(masked_sum(ratio_BR - 1 - log_ratio_BR, mask_BR)) / tokens
    totals["ratio_max"] = max(totals["ratio_max"], float(ratio_BR.max()))
    totals["ratio_min"] = min(totals["ratio_min"], float(ratio_BR.min()))
    return new_logprobs_BR


def _value_loss(
    values_BR1: Tensor, rows: ExperienceRows, config: PPO, tokens: int, totals: dict[str, float]
) -> Tensor:
    loss, clipped = value_objective(values_BR1, rows, config, tokens)
    totals["value_loss"] += float(loss.detach())
    totals["value_clip_fraction"] += clipped
    return loss
