"""The parts of a stage in memory: models that learn, are read or are frozen, and the sampler."""

from dataclasses import dataclass, replace

from rlhf_core.config import LoRA, Recipe
from rlhf_core.plan import memory
from rlhf_core.plan.adapters import activations_change, adapter_parameters
from rlhf_core.plan.memory import BatchShape
from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.stage_plan import MemoryPart, StageModels
from rlhf_core.plan.strategy import GIB, Hardware, Strategy

# vLLM's buffers: 6 to 28 MiB for each of 67 batch sizes (vllm-project/vllm#22897), not measured
CUDA_GRAPHS = GIB
SAMPLERS = {"vllm": "vLLM", "transformers": "transformers"}  # sampling.engine -> name in a plan


@dataclass(frozen=True)
class PlanInputs:
    """Everything that the parts of a stage are computed from."""

    recipe: Recipe
    models: StageModels
    strategy: Strategy
    hardware: Hardware
    batch: BatchShape
    lora: LoRA | None

    @property
    def sampler_sleeps(self) -> bool:
        """True if vLLM releases its memory while models train, which it does on GPUs alone."""
        return self.strategy.sampler_sleeps and self.hardware.kind == "gpu"


def learner(inputs: PlanInputs, model: str) -> list[MemoryPart]:
    """Return the parts of a model with an optimizer.

    Its gradients wait from its first backward pass until its optimizer steps. Of several models the
    next one's backward passes begin after that. At stage 2 a backward pass takes its bucket for its
    first gradient, when the logits are gone.
    """
    state = _state(inputs, model)
    update, step = f"{model} update", f"{model} step"
    loss = f"{model} loss" if inputs.strategy.zero_stage == 2 else update
    learning = tuple(dict.fromkeys((loss, update)))
    return [
        MemoryPart(model, "weights", state.weights),
        MemoryPart(model, "optimizer", state.optimizer),
        MemoryPart(model, "gradients", state.gradients, (*learning, step)),
        MemoryPart(model, "activations", _saved_activations(inputs, model), learning),
        *_backward_pass(inputs, model, loss, update),
        MemoryPart(model, "buffers", state.casts + state.gathered, learning),
        MemoryPart(model, "buffers", state.buckets, (update, step)),
        MemoryPart(model, "buffers", state.stepping, (step,)),
    ]


def _saved_activations(inputs: PlanInputs, model: str) -> float:
    shape, batch, strategy = _shape(inputs, model), inputs.batch, inputs.strategy
    saved = memory.saved_activations(shape, batch, strategy)
    if inputs.lora:
        saved += activations_change(shape, batch, strategy, inputs.lora)
    return saved


def _backward_pass(inputs: PlanInputs, model: str, loss: str, update: str) -> list[MemoryPart]:
    """Return working tensors and logits, or the larger: they never live at the same time."""
    shape, batch, strategy = _shape(inputs, model), inputs.batch, inputs.strategy
    working = memory.working_tensors(shape, batch, strategy, learns=True)
    if model not in ("policy", "actor"):
        return [MemoryPart(model, "activations", working, (update,))]
    entropy = model == "actor" and inputs.recipe.ppo.entropy_coef > 0
    scores = _logits(inputs, model, learns=True, entropy=entropy)
    if loss != update:
        return [
            MemoryPart(model, "logits", scores, (loss,)),
            MemoryPart(model, "activations", working, (update,)),
        ]
    return [MemoryPart(model, "logits", max(working, scores), (update,))]


def _logits(
    inputs: PlanInputs, model: str, *, learns: bool, entropy: bool, whole: bool = False
) -> float:
    """Return the bytes of logits, by chunks where training makes them so; whole: never."""
    shape, batch, strategy = _shape(inputs, model), inputs.batch, inputs.strategy
    head_learns = learns and not inputs.lora  # adapters leave the output layer frozen
    fits = memory.chunk_positions(shape, batch, strategy) == batch.positions
    if whole or fits or (head_learns and batch.positions <= shape.hidden):
        return memory.logits(shape, batch, strategy, learns=learns, entropy=entropy)
    return memory.chunked_logits(
        shape, batch, strategy, entropy_learns=learns and entropy, head_learns=head_learns
    )


def reader(
    inputs: PlanInputs,
    model: str,
    phase: str,
    *,
    casts: bool = False,
    entropy: bool = False,
    whole: bool = False,
) -> list[MemoryPart]:
    """Return what a pass without gradients needs beside the weights.

    casts: the model learns, so that autocast keeps copies of its weights; it keeps no others.
    whole: its logits are never made by chunks.
    """
    shape, batch, strategy = _shape(inputs, model), inputs.batch, inputs.strategy
    working = memory.working_tensors(shape, batch, strategy, learns=False)
    scores = _logits(inputs, model, learns=False, entropy=entropy, whole=whole)
    held = [
        MemoryPart(model, "activations", working, (phase,)),
        MemoryPart(model, "logits", 0 if model == "reward" else scores, (phase,)),
    ]
    return [*held, cached_casts(inputs, model, phase)] if casts else held


def cached_casts(inputs: PlanInputs, model: str, phase: str) -> MemoryPart:
    """Return the copies of a learning model's weights that autocast keeps in a pass of `phase`."""
    return MemoryPart(model, "buffers", _state(inputs, model).cached, (phase,))


def frozen(inputs: PlanInputs, model: str, phases: tuple[str, ...] | None = None) -> MemoryPart:
    """Return the weights of a model that does not learn."""
    on_device, _ = _frozen_bytes(inputs, model)
    return MemoryPart(model, "weights", on_device, phases)


def resting(inputs: PlanInputs, model: str, phase: str) -> MemoryPart:
    """Return the weights of a model that does not learn, and is read in one phase of several.

    On a CPU weights in their files' number type are in memory then alone: those in float32 that
    the run itself has saved so.
    """
    strategy, given = inputs.strategy, inputs.recipe.model
    brought = given.reward if model == "reward" else given.sft
    saved = brought is None and given.export_dtype != "bfloat16"
    in_files = inputs.hardware.kind == "cpu" and strategy.frozen == "whole"
    rests = in_files and saved and strategy.frozen_bytes == memory.FLOAT
    return frozen(inputs, model, (phase,) if rests else None)


def reward_ensemble(inputs: PlanInputs) -> MemoryPart:
    """Return the weights of all members of the reward ensemble."""
    one = resting(inputs, "reward", "experience")
    return replace(one, bytes=one.bytes * inputs.recipe.reward.ensemble)


def reward_adapter(inputs: PlanInputs) -> MemoryPart:
    """Return the reward model if it is an adapter and a head on the reference's trunk."""
    lora, shape = inputs.recipe.reward.lora, inputs.models.reward
    assert lora is not None  # the recipe was refused otherwise
    parameters = adapter_parameters(shape, lora) + shape.hidden
    return MemoryPart("reward", "weights", memory.FLOAT * parameters)


def sampler(
    inputs: PlanInputs,
    stage: str,
    sequences: int,
    awake: tuple[str, ...],
    *,
    generates: tuple[str, ...] = (),
) -> list[MemoryPart]:
    """Return the sampler's weights, cache and workspace.

    awake: phases in which it holds weights and cache beside that of generation. generates: those of
    them in which it generates too.
    """
    shape, strategy, phase = inputs.models.policy, inputs.strategy, "generation"
    over = strategy.sampler_over
    workspace, logits = _workspace(inputs, sequences)
    sampling, cuda = inputs.recipe.sampling(stage), inputs.hardware.kind == "gpu"
    name, held = SAMPLERS[sampling.engine], (phase, *awake)
    has_graphs = cuda and sampling.engine == "vllm" and not sampling.runs_eager(cuda=True)
    return [
        MemoryPart(name, "weights", strategy.compute_bytes * shape.policy / over, held),
        MemoryPart(name, "KV cache", strategy.kv_cache_mib * 2**20, held),
        MemoryPart(name, "buffers", CUDA_GRAPHS * has_graphs + _synced_adapter(inputs, stage)),
        MemoryPart(name, "activations", workspace / over, (phase, *generates)),
        MemoryPart(name, "logits", logits, (phase, *generates)),
    ]


def _synced_adapter(inputs: PlanInputs, stage: str) -> float:
    """Return the bytes of the adapter that vLLM holds beside the base model, if it gets one."""
    lora = inputs.recipe.ppo.lora
    if lora is None or not inputs.recipe.sampling(stage).adapter_sync:
        return 0.0
    return inputs.strategy.compute_bytes * adapter_parameters(inputs.models.policy, lora)


def _workspace(inputs: PlanInputs, sequences: int) -> tuple[float, float]:
    """Return the bytes of one layer over a scheduler step, and of three tensors of logits.

    The layer sees all tokens of the step; the logits are float32 and live while sampling. On a GPU
    vLLM runs a batch of its largest size when it starts; on the CPU only what is asked for counts.
    """
    shape, large = inputs.models.policy, inputs.hardware.capacity >= 70 * GIB
    # max_num_batched_tokens, max_num_seqs of vllm.LLM
    tokens, rows = (16_384, 1_024) if large else (8_192, 256)
    if inputs.hardware.kind == "cpu":
        tokens = min(4_096, sequences * inputs.recipe.data.max_prompt_tokens)
        rows = min(256, sequences)
    layer = inputs.strategy.compute_bytes * (3 * shape.intermediate + 3 * shape.hidden)
    return tokens * layer, 3 * memory.FLOAT * rows * shape.vocabulary


def host_bytes(inputs: PlanInputs, parts: list[MemoryPart]) -> float:
    """Return the bytes in host memory per device: everything that was moved there."""
    models = {part.model for part in parts if part.kind == "weights"} - set(SAMPLERS.values())
    learners = {part.model for part in parts if part.kind == "gradients"}
    adapters = {"reward"} if inputs.recipe.ppo.reward_trunk == "reference" else set()
    whole = models - learners - adapters
    moved = sum(_frozen_bytes(inputs, name)[1] for name in whole)
    return moved + sum(_state(inputs, name).host for name in learners)


def _frozen_bytes(inputs: PlanInputs, model: str) -> tuple[float, float]:
    parameters, _ = _parameters(inputs, model)
    return memory.frozen_weights(parameters, _shape(inputs, model).embedding, inputs.strategy)


def _shape(inputs: PlanInputs, model: str) -> ModelShape:
    from_reward = ("reward", "critic") if inputs.recipe.ppo.reward.model_weight else ("reward",)
    return inputs.models.reward if model in from_reward else inputs.models.policy


def _parameters(inputs: PlanInputs, model: str) -> tuple[int, int]:
    """Return all parameters of a model, and those in linear maps (a head of one row aside)."""
    shape = _shape(inputs, model)
    layers = shape.layers * shape.layer_matrices
    if model in ("reward", "critic"):
        return shape.scalar, layers
    return shape.policy, layers + shape.embedding


def _state(inputs: PlanInputs, model: str) -> memory.TrainingState:
    on_cpu = inputs.hardware.kind == "cpu"
    adapters = adapter_parameters(_shape(inputs, model), inputs.lora) if inputs.lora else None
    return memory.training_state(
        *_parameters(inputs, model), inputs.strategy, on_cpu=on_cpu, adapters=adapters
    )
