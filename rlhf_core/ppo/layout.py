"""Layouts: which of PPO's four models stand on their own, and which share a trunk."""

from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from rlhf_core.batching.batch import Batch
from rlhf_core.config import PPO
from rlhf_core.config.stage_configs import PPOStageConfig
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.errors import BadInput
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.modeling.half import computed_dtype
from rlhf_core.modeling.lora import Wrapped, require_origin, with_adapter
from rlhf_core.modeling.mapped_weights import maps_weights
from rlhf_core.modeling.models import inference, load_policy, load_scalar
from rlhf_core.modeling.packed_attention import (
    require_no_router_loss,
    require_separation,
    without_padding,
)
from rlhf_core.modeling.reading import Reading, reward_reading, same_vocabulary
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.modeling.trunk import Trunk, load_trunk
from rlhf_core.ppo.rewards import RolloutScorer
from rlhf_core.ppo.scoring import Models
from rlhf_core.rundir import Artifact, StageSpec


def load_models(spec: StageSpec[PPOStageConfig], config: PPO, functions: RolloutScorer) -> Models:
    """Load the models of a PPO spec, laid out as the recipe says.

    Raises BadInput for a reward adapter of another trunk, for an uncertainty penalty with one
    reward model, and for a reward model of other token ids where it must read the policy's.
    """
    dtype, policy, logits_mib = spec.config.dtype, spec.inputs["policy"], spec.config.logits_mib
    reference, weights = spec.inputs.get("reference", policy), spec.config.frozen_dtype
    reading = None
    if config.reward.model_weight:
        reading = reward_reading(config, policy.path, spec.inputs["reward"].path)
    adapter = _reward_adapter(spec, config, reference)
    off = config.reference == "adapter-off" and reference.digest == policy.digest
    actor = _actor(spec, config, reward_adapter=adapter if off else None)
    shared = actor.infer if off else None  # the trunk that is the reference, and a reward model
    if adapter and not off:
        trunk = load_trunk(
            reference.path, reward_adapter=adapter.path, logits_mib=logits_mib, mapped=True
        )
        shared = inference(_unpadded(trunk, spec, frozen=True), dtype=dtype, weights=weights)
    critic = None
    if config.has_critic and not config.shares_critic:
        critic = _critic(spec, config, reading)
    rewards: tuple[Forward, ...] = ()
    if adapter and shared:
        rewards = (_in_role(shared, "reward"),)
    elif config.reward.model_weight:
        members = load_members(
            spec.inputs["reward"].path,
            dtype=dtype,
            frozen=config.frozen,
            weights=weights,
            packing=config.packing,
            share_prompts=config.share_prompts,
        )
        rewards = tuple(members)
    if config.uncertainty_penalty and len(rewards) < 2:
        raise BadInput(
            f"ppo.uncertainty_penalty is {config.uncertainty_penalty:g}, but"
            f" {spec.inputs['reward'].path} is one reward model; expected an ensemble"
            " (reward.ensemble = 2 or more)"
        )
    forward = _in_role(shared, "reference") if shared else _reference(spec, config, reference.path)
    models = Models(actor, critic, forward, rewards, functions, reading)
    if config.packing:
        frozen = computed_dtype(dtype, weights)
        _require_separation(models, dtype, frozen=frozen, share_prompts=config.share_prompts)
    return models


def _reference(spec: StageSpec[PPOStageConfig], config: PPO, path: Path) -> Forward:
    """Return the forward pass of a reference that stands on its own."""
    loaded = load_policy(path, logits_mib=spec.config.logits_mib, mapped=True)
    copy = _unpadded(loaded, spec, frozen=True)
    dtype, weights = spec.config.dtype, spec.config.frozen_dtype
    return inference(copy, dtype=dtype, frozen=config.frozen, weights=weights)


def _unpadded(model: Wrapped, spec: StageSpec[PPOStageConfig], *, frozen: bool = False) -> Wrapped:
    dtype: str = spec.config.dtype
    if frozen:
        dtype = computed_dtype(dtype, spec.config.frozen_dtype)
    config = spec.config.ppo
    return without_padding(
        model, on=config.packing, dtype=dtype, share_prompts=config.share_prompts
    )


def _require_separation(models: Models, dtype: str, *, frozen: str, share_prompts: bool) -> None:
    """Raise BadInput unless actor, reference and critic read packed rows as single sequences.

    frozen: number type of the reference's matrix products.
    """
    for engine in models.engines.values():
        require_no_router_loss(engine.module)
    for forward, computed in ((models.actor.infer, dtype), (models.reference, frozen)):
        logprobs = partial(_logprobs, forward)
        require_separation(logprobs, dtype=computed, share_prompts=share_prompts)
    if models.critic:
        require_separation(models.critic.infer, dtype=dtype, share_prompts=share_prompts)


def _logprobs(forward: Forward, batch: Batch) -> Tensor:
    found: Tensor = forward(batch, query=TokenQuery()).logprobs_BR
    return found


def _actor(
    spec: StageSpec[PPOStageConfig], config: PPO, *, reward_adapter: Artifact | None
) -> Engine:
    policy, dtype, logits_mib = spec.inputs["policy"], spec.config.dtype, spec.config.logits_mib
    mapped = maps_weights(config)
    if not (config.shares_critic or config.reference == "adapter-off"):
        loaded = load_policy(policy.path, logits_mib=logits_mib, mapped=mapped)
        model = with_adapter(_unpadded(loaded, spec), config.lora, seed=spec.seed)
        return DeepSpeedEngine(model, config, dtype=dtype)
    path = reward_adapter.path if reward_adapter else None
    trunk: Trunk = load_trunk(
        policy.path,
        value_head=config.shares_critic,
        reward_adapter=path,
        logits_mib=logits_mib,
        mapped=mapped,
    )
    trunk = with_adapter(_unpadded(trunk, spec), config.lora, seed=spec.seed)
    return DeepSpeedEngine(trunk, config, dtype=dtype, head=trunk.value_head)


def _critic(spec: StageSpec[PPOStageConfig], config: PPO, reading: Reading | None) -> Engine:
    """Return a critic that starts from the reward model, or from the policy.

    It reads the policy's token ids, so that it starts from a reward model of the same vocabulary
    only.
    """
    mapped = maps_weights(config)
    known = reading is None or same_vocabulary(reading.tokenizer, reading.writer)
    if config.reward.model_weight and known:
        start = load_scalar(spec.inputs["reward"].path, mapped=mapped)
    else:
        policy = spec.inputs["policy"].path
        start = load_scalar(policy, new_head=True, seed=spec.seed, mapped=mapped)
    model = with_adapter(_unpadded(start, spec), config.lora, seed=spec.seed)
    return DeepSpeedEngine(model, config, dtype=spec.config.dtype)


def _in_role(forward: Forward, role: str) -> Forward:
    def forward_in_role(batch: Batch, **options: Any) -> Any:
        return forward(batch, role, **options)

    return forward_in_role


def _reward_adapter(
    spec: StageSpec[PPOStageConfig], config: PPO, reference: Artifact
) -> Artifact | None:
    if config.reward_trunk == "own":
        return None
    adapter = spec.inputs["reward_adapter"]
    require_origin(adapter.path, base=reference.digest, merged=spec.inputs["reward"].digest)
    return adapter
