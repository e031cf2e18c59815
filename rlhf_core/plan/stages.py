"""The models that each stage holds, in which of its phases, and their bytes on one device."""

from rlhf_core.config import Recipe, Training
from rlhf_core.plan import memory, parts
from rlhf_core.plan.checkpoints import checkpoint_plan
from rlhf_core.plan.layout import OWN_SAMPLER, least_rows, longest_row
from rlhf_core.plan.memory import BatchShape
from rlhf_core.plan.parts import PlanInputs
from rlhf_core.plan.stage_plan import MemoryPart, StageModels, StagePlan
from rlhf_core.plan.strategy import Hardware, Strategy


def plan_stage(
    recipe: Recipe, stage: str, models: StageModels, strategy: Strategy, hardware: Hardware
) -> StagePlan:
    """Return the memory of one stage.

    A microbatch counts as full, and full of response tokens: the most logits it can have.
    """
    length = longest_row(recipe, stage)
    tokens = max(strategy.micro_batch_tokens, length * least_rows(stage))
    section = None if stage == OWN_SAMPLER else recipe.section(stage)
    lora = section.lora if isinstance(section, Training) else None
    batch = BatchShape(tokens, length, tokens)
    inputs = PlanInputs(recipe, models, strategy, hardware, batch, lora)
    checkpoints = checkpoint_plan(recipe, stage, models, hardware.kind)
    held = _PARTS[stage](inputs)
    if checkpoints and checkpoints.copied and hardware.kind == "cpu":
        held.append(MemoryPart("checkpoint", "buffers", checkpoints.size / strategy.devices))
    kept = tuple(part for part in held if part.bytes)
    return StagePlan(stage, strategy, hardware, kept, parts.host_bytes(inputs, held), checkpoints)


def _sft(inputs: PlanInputs) -> list[MemoryPart]:
    return [
        *parts.learner(inputs, "policy"),
        *parts.reader(inputs, "policy", "held-out loss", casts=True),
    ]


def _reward(inputs: PlanInputs) -> list[MemoryPart]:
    return parts.learner(inputs, "reward")


def _ppo(inputs: PlanInputs) -> list[MemoryPart]:
    held = [*_ppo_learners(inputs), *_ppo_frozen(inputs)]
    if inputs.strategy.own_sampler and inputs.hardware.kind == "gpu":
        return held
    ppo = inputs.recipe.ppo
    phases = tuple(dict.fromkeys(phase for part in held for phase in part.phases or ()))
    awake = () if inputs.sampler_sleeps else phases
    beside = phases if ppo.generates_ahead else ()  # in a process of its own, in the same memory
    return [*held, *parts.sampler(inputs, "ppo", ppo.rollout_batch, awake, generates=beside)]


def _ppo_learners(inputs: PlanInputs) -> list[MemoryPart]:
    ppo = inputs.recipe.ppo
    learners = ["actor", "critic"] if ppo.has_critic and not ppo.shares_critic else ["actor"]
    held = [part for name in learners for part in parts.learner(inputs, name)]
    if not ppo.recomputes_old_logprobs:
        held += parts.reader(inputs, "reference", "experience")
        read = "critic" if "critic" in learners else "actor" if ppo.shares_critic else None
        return held + ([parts.cached_casts(inputs, read, "experience")] if read else [])
    held += parts.reader(
        inputs, "actor", "experience", casts=True, entropy=True, whole=ppo.kl_exact
    )
    if ppo.kl_exact:  # the actor's logits wait for the reference's
        kept = memory.FLOAT * inputs.batch.positions * inputs.models.policy.vocabulary
        held.append(MemoryPart("actor", "logits", kept, ("experience",)))
    return held


def _ppo_frozen(inputs: PlanInputs) -> list[MemoryPart]:
    ppo = inputs.recipe.ppo
    held = []
    if ppo.reward.model_weight:
        on_trunk = ppo.reward_trunk == "reference"
        held.append(parts.reward_adapter(inputs) if on_trunk else parts.reward_ensemble(inputs))
    if ppo.reference == "copy":
        held.append(parts.resting(inputs, "reference", "experience"))
    return held


def _own_sampler(inputs: PlanInputs) -> list[MemoryPart]:
    return parts.sampler(inputs, "ppo", inputs.recipe.ppo.rollout_batch, ())


def _dpo(inputs: PlanInputs) -> list[MemoryPart]:
    """Return the parts of the policy alone.

    Before the first step the policy is its own reference; the reference's log-probabilities are
    kept.
    """
    return [
        *parts.learner(inputs, "policy"),
        *parts.reader(inputs, "policy", "reference and held-out", casts=True),
    ]


def _kto(inputs: PlanInputs) -> list[MemoryPart]:
    """Return the parts of the policy alone, which is its own reference before the first step."""
    reading = "reference, KL and held-out"
    return [*parts.learner(inputs, "policy"), *parts.reader(inputs, "policy", reading, casts=True)]


def _evaluate(inputs: PlanInputs) -> list[MemoryPart]:
    """Return the parts of the evaluation.

    The policy and the SFT model answer through one sampler, the reward model scores, then the
    policy and the SFT model are compared.
    """
    compared, scored = "KL and held-out loss", "scoring"
    held = [
        parts.frozen(inputs, "policy", (compared,)),
        parts.frozen(inputs, "sft", (compared,)),
        *parts.reader(inputs, "policy", compared),
    ]
    if inputs.recipe.has_reward:
        held += [parts.frozen(inputs, "reward", (scored,)), *parts.reader(inputs, "reward", scored)]
    awake = () if inputs.sampler_sleeps else (scored, compared)
    return [*held, *parts.sampler(inputs, "evaluate", inputs.recipe.evaluate.max_prompts, awake)]


_PARTS = {
    "sft": _sft,
    "reward": _reward,
    "ppo": _ppo,
    "dpo": _dpo,
    "kto": _kto,
    "evaluate": _evaluate,
    OWN_SAMPLER: _own_sampler,
}
