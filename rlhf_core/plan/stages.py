"""Which models a stage holds, in which of its phases, and how much that is on one device."""

from dataclasses import dataclass, replace

from rlhf_core.config import LoRA, Recipe
from rlhf_core.plan import memory
from rlhf_core.plan.adapters import activations_change, adapter_parameters
from rlhf_core.plan.memory import BatchShape
from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.strategy import GIB, Hardware, Strategy
from rlhf_core.stage_catalogue import STAGES

WITH_MODELS = tuple(name for name, stage in STAGES.items() if stage.gated)
OWN_SAMPLER = "ppo.sampling"  # planned like a stage: vLLM on devices of its own
SAMPLERS = {"vllm": "vLLM", "transformers": "transformers"}  # name in a plan, by sampling.engine
PAIRED_STAGES = ("reward", "dpo")  # stages whose rows come in pairs that stay together
MEMORY_KINDS = ("weights", "gradients", "optimizer", "activations", "logits", "KV cache", "buffers")


@dataclass(frozen=True)
class MemoryPart:
    """Bytes of one kind for one model; `phases` in which they are held, None: always."""

    model: str
    kind: str
    bytes: float
    phases: tuple[str, ...] | None = None

    def held_in(self, phase: str) -> bool:
        return self.phases is None or phase in self.phases


@dataclass(frozen=True)
class StagePlan:
    """One stage on one device; every device holds the same. host: bytes in host memory for each
    device.
    """

    stage: str
    strategy: Strategy
    hardware: Hardware
    parts: tuple[MemoryPart, ...]
    host: float

    @property
    def phases(self) -> list[str]:
        return list(dict.fromkeys(phase for part in self.parts for phase in part.phases or ()))

    def bytes_in(self, phase: str) -> float:
        """Bytes of the models in a phase."""
        return sum(part.bytes for part in self.parts if part.held_in(phase))

    @property
    def peak_phase(self) -> str:
        return max(self.phases, key=self.bytes_in)

    @property
    def peak(self) -> float:
        """Bytes at the peak, overhead included."""
        return self.bytes_in(self.peak_phase) + self.hardware.overhead

    @property
    def spare(self) -> float:
        """Bytes left at the peak; negative when it does not fit."""
        return self.hardware.capacity - self.peak

    @property
    def fits(self) -> bool:
        return self.spare >= 0


@dataclass(frozen=True)
class StageModels:
    """The shapes in a recipe: of the policy and its copies, and of the reward model and the critic
    made from it.
    """

    policy: ModelShape
    reward: ModelShape


@dataclass(frozen=True)
class PlanInputs:
    """What the parts of a stage are counted with."""

    recipe: Recipe
    models: StageModels
    strategy: Strategy
    hardware: Hardware
    batch: BatchShape
    lora: LoRA | None


def stages_of(recipe: Recipe, kind: str = "gpu") -> list[str]:
    """The stages of the recipe that hold models, and what has devices of its own. kind: 'cpu' has
    one memory for all.
    """
    apart = (
        [OWN_SAMPLER]
        if recipe.runs("ppo") and recipe.ppo.sampling.own_devices and kind == "gpu"
        else []
    )
    return [stage for stage in WITH_MODELS if recipe.runs(stage)] + apart


def strategy_of(recipe: Recipe, stage: str, devices: int) -> Strategy:
    """What the recipe says of a stage; devices: of those that train."""
    if stage == OWN_SAMPLER:
        return _own_strategy(recipe)
    section = getattr(recipe, stage)
    sampling = getattr(section, "sampling", None)
    return Strategy(
        micro_batch_tokens=section.micro_batch_tokens,
        dtype=recipe.model.dtype,
        zero_stage=getattr(section, "zero_stage", 0),
        kv_cache_mib=sampling.kv_cache_mib if sampling else 0,
        devices=devices,
        frozen=getattr(section, "frozen", "whole"),
        checkpointing=getattr(section, "activation_checkpointing", False),
        offload_optimizer=getattr(section, "offload_optimizer", False),
        sampler_over=sampling.tensor_parallel if sampling else 1,
        sampler_sleeps=bool(sampling) and sampling.sleep,
        own_sampler=sampling.own_devices if sampling else 0,
    )


def _own_strategy(recipe: Recipe) -> Strategy:
    sampling = recipe.ppo.sampling
    return Strategy(
        micro_batch_tokens=1,
        dtype=recipe.model.dtype,
        kv_cache_mib=sampling.kv_cache_mib,
        devices=sampling.own_devices,
        sampler_over=sampling.tensor_parallel,
    )


def longest_row(recipe: Recipe, stage: str) -> int:
    """Tokens of the longest prompt with its longest response that a stage may see."""
    section = stage.partition(".")[0]
    generated = (
        getattr(recipe, section).sampling.max_new_tokens if section in ("ppo", "evaluate") else 0
    )
    read = 0 if section == "ppo" else recipe.data.max_response_tokens
    return recipe.data.max_prompt_tokens + max(generated, read)


def plan_stage(
    recipe: Recipe, stage: str, models: StageModels, strategy: Strategy, hardware: Hardware
) -> StagePlan:
    """The memory of one stage. A microbatch counts as full, and full of response tokens: the most
    logits it can have.
    """
    length = longest_row(recipe, stage)
    tokens = max(
        strategy.micro_batch_tokens, length * (2 if stage in PAIRED_STAGES else 1)
    )  # a pair stays together
    lora = None if stage == OWN_SAMPLER else getattr(getattr(recipe, stage), "lora", None)
    setting = PlanInputs(
        recipe, models, strategy, hardware, BatchShape(tokens, length, tokens), lora
    )
    kinds = {
        "sft": _sft,
        "reward": _reward,
        "ppo": _ppo,
        "dpo": _dpo,
        "evaluate": _evaluate,
        OWN_SAMPLER: _own_sampler,
    }
    parts = kinds[stage](setting)
    return StagePlan(
        stage,
        strategy,
        hardware,
        tuple(part for part in parts if part.bytes),
        _host(setting, parts),
    )


def _sft(setting: PlanInputs) -> list[MemoryPart]:
    return [
        *_learner(setting, "policy", ["policy"]),
        *_reader(setting, "policy", "held-out loss", casts=True),
    ]


def _reward(setting: PlanInputs) -> list[MemoryPart]:
    return _learner(setting, "reward", ["reward"])


def _ppo(setting: PlanInputs) -> list[MemoryPart]:
    ppo = setting.recipe.ppo
    learners = ["actor", "critic"] if ppo.has_critic and not ppo.shares_critic else ["actor"]
    parts = [part for name in learners for part in _learner(setting, name, learners)]
    parts += _reader(setting, "actor", "experience", casts=True, entropy=True)
    if ppo.kl_exact:  # the actor's logits wait for the reference's
        kept = memory.FLOAT * setting.batch.positions * setting.models.policy.vocabulary
        parts.append(MemoryPart("actor", "logits", kept, ("experience",)))
    if ppo.reward.model_weight:
        parts.append(
            _reward_adapter(setting) if ppo.reward_trunk == "reference" else _reward_models(setting)
        )
    if ppo.reference == "copy":
        parts.append(_frozen(setting, "reference"))
    if setting.strategy.own_sampler and setting.hardware.kind == "gpu":
        return parts
    awake = (
        [phase for part in parts for phase in part.phases or ()]
        if not setting.strategy.sampler_sleeps
        else []
    )
    return [*parts, *_sampler(setting, "ppo", ppo.rollout_batch, (*dict.fromkeys(awake),))]


def _own_sampler(setting: PlanInputs) -> list[MemoryPart]:
    return _sampler(setting, "ppo", setting.recipe.ppo.rollout_batch, ())


def _reward_models(setting: PlanInputs) -> MemoryPart:
    """Every member of an ensemble."""
    one = _frozen(setting, "reward")
    return replace(one, bytes=one.bytes * setting.recipe.reward.ensemble)


def _dpo(setting: PlanInputs) -> list[MemoryPart]:
    """The policy alone: it is its own reference before the first step, and the reference's
    log-probabilities are kept.
    """
    return [
        *_learner(setting, "policy", ["policy"]),
        *_reader(setting, "policy", "reference and held-out", casts=True),
    ]


def _evaluate(setting: PlanInputs) -> list[MemoryPart]:
    """policy and sft answer through one sampler, the reward model scores, then policy and sft are
    compared.
    """
    compared, scored = ("KL and held-out loss",), ("scoring",)
    parts = [
        _frozen(setting, "policy", compared),
        _frozen(setting, "sft", compared),
        *_reader(setting, "policy", *compared),
    ]
    if setting.recipe.has_reward:
        parts += [_frozen(setting, "reward", scored), *_reader(setting, "reward", *scored)]
    awake = () if setting.strategy.sampler_sleeps else (*scored, *compared)
    return [*parts, *_sampler(setting, "evaluate", setting.recipe.evaluate.max_prompts, awake)]


def _shape(setting: PlanInputs, model: str) -> ModelShape:
    from_reward = ("reward", "critic") if setting.recipe.ppo.reward.model_weight else ("reward",)
    return setting.models.reward if model in from_reward else setting.models.policy


def _parameters(setting: PlanInputs, model: str) -> tuple[int, int]:
    """All parameters of a model, and those in linear maps (a head of one row aside)."""
    shape = _shape(setting, model)
    layers = shape.layers * shape.layer_matrices
    return (
        (shape.scalar, layers)
        if model in ("reward", "critic")
        else (shape.policy, layers + shape.embedding)
    )


def _state(setting: PlanInputs, model: str) -> memory.TrainingState:
    on_cpu = setting.hardware.kind == "cpu"
    adapters = adapter_parameters(_shape(setting, model), setting.lora) if setting.lora else None
    return memory.training_state(
        *_parameters(setting, model), setting.strategy, touched_only=on_cpu, adapters=adapters
    )


def _learner(setting: PlanInputs, model: str, learners: list[str]) -> list[MemoryPart]:
    """A model with an optimizer. Gradients wait from its first backward pass until it steps, after
    those before it.
    """
    state, shape, batch, strategy = (
        _state(setting, model),
        _shape(setting, model),
        setting.batch,
        setting.strategy,
    )
    update, step = f"{model} update", f"{model} step"
    waiting = tuple(f"{name} update" for name in learners)
    waiting += tuple(f"{name} step" for name in learners[: learners.index(model) + 1])
    working = memory.working_tensors(shape, batch, strategy, learns=True)
    has_logits, entropy = (
        model in ("policy", "actor"),
        model == "actor" and setting.recipe.ppo.entropy_coef > 0,
    )
    scores = memory.logits(shape, batch, strategy, learns=True, entropy=entropy)
    saved = memory.saved_activations(shape, batch, strategy)
    if setting.lora:
        saved += activations_change(shape, batch, strategy, setting.lora)
    return [
        MemoryPart(model, "weights", state.weights),
        MemoryPart(model, "optimizer", state.optimizer),
        MemoryPart(model, "gradients", state.gradients, waiting),
        MemoryPart(model, "activations", saved, (update,)),
        MemoryPart(
            model,
            "logits" if has_logits else "activations",
            max(working, scores) if has_logits else working,
            (update,),
        ),
        MemoryPart(model, "buffers", state.casts, (update,)),
        MemoryPart(model, "buffers", state.buckets, waiting),
        MemoryPart(model, "buffers", state.stepping, (step,)),
    ]


def _reader(
    setting: PlanInputs, model: str, phase: str, *, casts: bool = False, entropy: bool = False
) -> list[MemoryPart]:
    """What a pass without gradients needs beside the weights. casts: of a model that learns;
    autocast keeps no others.
    """
    shape, batch, strategy = _shape(setting, model), setting.batch, setting.strategy
    scores = (
        0
        if model == "reward"
        else memory.logits(shape, batch, strategy, learns=False, entropy=entropy)
    )
    return [
        MemoryPart(
            model,
            "activations",
            memory.working_tensors(shape, batch, strategy, learns=False),
            (phase,),
        ),
        MemoryPart(model, "logits", scores, (phase,)),
        MemoryPart(model, "buffers", _state(setting, model).cached if casts else 0, (phase,)),
    ]


def _frozen(setting: PlanInputs, model: str, phases: tuple[str, ...] | None = None) -> MemoryPart:
    return MemoryPart(
        model,
        "weights",
        memory.frozen_weights(_parameters(setting, model)[0], setting.strategy)[0],
        phases,
    )


def _reward_adapter(setting: PlanInputs) -> MemoryPart:
    """The reward model where it is an adapter and a head on the reference's trunk."""
    lora, shape = setting.recipe.reward.lora, setting.models.reward
    return MemoryPart(
        "reward", "weights", memory.FLOAT * (adapter_parameters(shape, lora) + shape.hidden)
    )


def _host(setting: PlanInputs, parts: list[MemoryPart]) -> float:
    """Bytes in host memory for each device: what was moved there."""
    models = {part.model for part in parts if part.kind == "weights"} - set(SAMPLERS.values())
    learners = {part.model for part in parts if part.kind == "gradients"}
    adapters = {"reward"} if setting.recipe.ppo.reward_trunk == "reference" else set()
    whole = models - learners - adapters
    frozen = sum(
        memory.frozen_weights(_parameters(setting, name)[0], setting.strategy)[1] for name in whole
    )
    return frozen + sum(_state(setting, name).host for name in learners)


def _sampler(
    setting: PlanInputs, stage: str, sequences: int, awake: tuple[str, ...]
) -> list[MemoryPart]:
    """The sampler: its own weights and cache, also in the phases `awake` in which it does not
    generate, and its workspace.
    """
    shape, strategy, phase = setting.models.policy, setting.strategy, "generation"
    over = strategy.sampler_over
    name, held = SAMPLERS[getattr(setting.recipe, stage).sampling.engine], (phase, *awake)
    workspace, logits = _workspace(setting, sequences)
    return [
        MemoryPart(name, "weights", strategy.compute_bytes * shape.policy / over, held),
        MemoryPart(name, "KV cache", strategy.kv_cache_mib * 2**20, held),
        MemoryPart(name, "activations", workspace / over, (phase,)),
        MemoryPart(name, "logits", logits, (phase,)),
    ]


def _workspace(setting: PlanInputs, sequences: int) -> tuple[float, float]:
    """Bytes of one layer over the tokens of a scheduler step, and of three float32 tensors of
    logits while sampling.

    On a GPU vLLM runs a batch of its largest size when it starts; on the CPU only what is asked for
    counts.
    """
    shape, large = setting.models.policy, setting.hardware.capacity >= 70 * GIB
    tokens, rows = (
        (16_384, 1_024) if large else (8_192, 256)
    )  # max_num_batched_tokens, max_num_seqs of vllm.LLM
    if setting.hardware.kind == "cpu":
        tokens, rows = (
            min(4_096, sequences * setting.recipe.data.max_prompt_tokens),
            min(256, sequences),
        )
    layer = setting.strategy.compute_bytes * (3 * shape.intermediate + 3 * shape.hidden)
    return tokens * layer, 3 * memory.FLOAT * rows * shape.vocabulary
