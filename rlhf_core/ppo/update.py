"""Epochs of minibatches over one experience: the clipped surrogate for the actor, the clipped value loss for the critic."""

import time
from collections import defaultdict

import torch
from torch import Tensor

from rlhf_core.batch import Batch, microbatches, order
from rlhf_core.config import PPO
from rlhf_core.engine import Engine
from rlhf_core.losses import explained_variance, masked_sum, policy_loss, token_entropy, token_logprobs, value_loss
from rlhf_core.ppo.experience import Experience


def update(actor: Engine, critic: Engine, experience: Experience, config: PPO, *, step: int, seed: int) -> dict[str, float]:
    """`config.epochs` passes; every minibatch is one optimizer step of each model. Returns the step's update metrics.

    During the first `critic_warmup_steps` only the critic learns.
    """
    started = time.monotonic()
    rows = len(experience.batch.mask_BL)
    policy_lr = config.policy_lr * min(1.0, step / max(1, config.warmup_steps))
    actor_learns = step > config.critic_warmup_steps
    sums: dict[str, list[float]] = defaultdict(list)
    for epoch in range(config.epochs):
        permutation = torch.tensor(order(rows, seed=seed * 8_191 + step, epoch=epoch))
        for minibatch in permutation.chunk(min(config.minibatches, rows)):
            totals = _accumulate(actor if actor_learns else None, critic, experience, minibatch.tolist(), config)
            norms = {"policy_grad_norm": actor.step(policy_lr) if actor_learns else 0.0}
            norms["critic_grad_norm"] = critic.step(config.critic_lr)
            for name, value in (totals | norms).items():
                sums[name].append(value)
    mask_BR = experience.batch.response_mask_BR
    metrics = {f"ppo/{name}": sum(values) / len(values) for name, values in sums.items()}
    return metrics | {
        "ppo/ratio_max": max(sums["ratio_max"]),
        "ppo/ratio_min": min(sums["ratio_min"]),
        "ppo/policy_lr": policy_lr if actor_learns else 0.0,
        "ppo/critic_lr": config.critic_lr,
        "ppo/explained_variance": explained_variance(experience.values_BR, experience.returns_BR, mask_BR),
        "ppo/seconds_update": time.monotonic() - started,
    }


def _accumulate(
    actor: Engine | None, critic: Engine, experience: Experience, minibatch: list[int], config: PPO
) -> dict[str, float]:
    """Backward passes of one minibatch in microbatches of similar length; denominators count the whole minibatch."""
    denominator = int(experience.batch.response_mask_BR[minibatch].sum())
    sizes = experience.batch.sizes
    totals: dict[str, float] = defaultdict(float, ratio_max=1.0, ratio_min=1.0)
    for part in microbatches([sizes[row] for row in minibatch], config.micro_batch_tokens):
        batch, tensors = experience.rows([minibatch[i] for i in part])
        if actor is not None:
            _actor_backward(actor, batch, tensors, config, denominator, totals)
        _critic_backward(critic, batch, tensors, config, denominator, totals)
    return dict(totals)


def _actor_backward(
    actor: Engine, batch: Batch, old: dict[str, Tensor], config: PPO, denominator: int, totals: dict[str, float]
) -> None:
    mask_BR = batch.response_mask_BR
    logits_BRV = actor(batch)
    new_logprobs_BR = token_logprobs(logits_BRV, batch.response_ids_BR)
    loss = policy_loss(
        new_logprobs_BR, old["old_logprobs_BR"], old["advantages_BR"], mask_BR,
        clip=config.clip, denominator=denominator,
    )  # fmt: skip
    totals["policy_loss"] += float(loss)
    if config.entropy_coef:
        loss = loss - config.entropy_coef * masked_sum(token_entropy(logits_BRV), mask_BR) / denominator
    actor.backward(loss)
    log_ratio_BR = (new_logprobs_BR.detach() - old["old_logprobs_BR"]).masked_fill(~mask_BR, 0.0)
    ratio_BR = log_ratio_BR.exp()
    clipped = ((ratio_BR - 1).abs() > config.clip)[mask_BR].sum()
    totals["policy_clip_fraction"] += float(clipped) / denominator
    totals["approx_kl_update"] += float(masked_sum(ratio_BR - 1 - log_ratio_BR, mask_BR)) / denominator
    totals["ratio_max"] = max(totals["ratio_max"], float(ratio_BR.max()))
    totals["ratio_min"] = min(totals["ratio_min"], float(ratio_BR.min()))


def _critic_backward(
    critic: Engine, batch: Batch, old: dict[str, Tensor], config: PPO, denominator: int, totals: dict[str, float]
) -> None:
    mask_BR = batch.response_mask_BR
    new_values_BR = critic(batch)[:, : mask_BR.shape[1]]
    loss = value_loss(
        new_values_BR, old["values_BR"], old["returns_BR"], mask_BR, clip=config.value_clip, denominator=denominator
    )
    critic.backward(loss)
    totals["value_loss"] += float(loss)
    clipped = ((new_values_BR.detach() - old["values_BR"]).abs() > config.value_clip)[mask_BR].sum()
    totals["value_clip_fraction"] += float(clipped) / denominator
