"""Which of PPO's four models stand on their own, and which share a trunk."""

from dataclasses import dataclass

from rlhf_core.batching.batch import Batch
from rlhf_core.config import PPO
from rlhf_core.engine.base import Engine, Forward
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.errors import BadInput
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.modeling.lora import require_origin, with_adapter
from rlhf_core.modeling.models import inference, load_policy, load_scalar
from rlhf_core.modeling.trunk import Trunk, load_trunk
from rlhf_core.rundir import Artifact, StageSpec


@dataclass(frozen=True)
class FourModels:
    """What the PPO stage learns and asks. critic: None where it is a head on the actor's trunk, or
    there is none.
    """

    actor: Engine
    critic: Engine | None
    reward: Forward | None  # None: reward functions alone
    reference: Forward
    further_rewards: tuple[Forward, ...] = ()  # the other members of an ensemble


def load_models(spec: StageSpec, config: PPO) -> FourModels:
    """The models of a PPO spec, laid out as the recipe says.

    Raises BadInput for a reward adapter of another trunk, and for an uncertainty penalty with one
    reward model.
    """
    dtype, seed = spec.config["dtype"], spec.seed
    policy, reward = (
        spec.inputs["policy"],
        spec.inputs["reward"] if config.reward.model_weight else None,
    )
    reference = spec.inputs.get("reference", policy)
    adapter = _reward_adapter(spec, config, reference)
    off = config.reference == "adapter-off" and reference.digest == policy.digest
    actor, trunk = (
        _actor(policy, config, dtype, seed=seed, reward_adapter=adapter if off else None),
        None,
    )
    if adapter and not off:
        trunk = inference(load_trunk(reference.path, reward_adapter=adapter.path), dtype=dtype)
    critic = None
    if config.has_critic and not config.shares_critic:
        start = (
            load_scalar(reward.path)
            if reward
            else load_scalar(policy.path, new_head=True, seed=seed)
        )
        critic = DeepSpeedEngine(with_adapter(start, config.lora, seed=seed), config, dtype=dtype)
    members = (
        load_members(reward.path, dtype=dtype, frozen=config.frozen)
        if reward and not adapter
        else []
    )
    reward_model, *further = (
        [_in_role(trunk or actor.infer, "reward")] if adapter else members or [None]
    )
    if config.uncertainty_penalty and not further:
        raise BadInput(
            f"ppo.uncertainty_penalty is {config.uncertainty_penalty:g}, but {reward.path} is one"
            " reward model; expected an ensemble (reward.ensemble = 2 or more)"
        )
    return FourModels(
        actor=actor,
        critic=critic,
        reward=reward_model,
        reference=(
            _in_role(trunk or actor.infer, "reference")
            if trunk or off
            else _copy(reference, config, dtype)
        ),
        further_rewards=tuple(further),
    )


def _actor(
    policy: Artifact, config: PPO, dtype: str, *, seed: int, reward_adapter: Artifact | None
) -> Engine:
    if not (config.shares_critic or config.reference == "adapter-off"):
        return DeepSpeedEngine(
            with_adapter(load_policy(policy.path), config.lora, seed=seed), config, dtype=dtype
        )
    path = reward_adapter.path if reward_adapter else None
    trunk: Trunk = load_trunk(policy.path, value_head=config.shares_critic, reward_adapter=path)
    return DeepSpeedEngine(
        with_adapter(trunk, config.lora, seed=seed), config, dtype=dtype, head=trunk.value_head
    )


def _copy(reference: Artifact, config: PPO, dtype: str) -> Forward:
    return inference(load_policy(reference.path), dtype=dtype, frozen=config.frozen)


def _in_role(forward: Forward, role: str) -> Forward:
    def ask(batch: Batch):
        return forward(batch, role)

    return ask


def _reward_adapter(spec: StageSpec, config: PPO, reference: Artifact) -> Artifact | None:
    if config.reward_trunk == "own":
        return None
    adapter = spec.inputs["reward_adapter"]
    require_origin(adapter.path, base=reference.digest, merged=spec.inputs["reward"].digest)
    return adapter
