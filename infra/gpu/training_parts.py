"""The parts of check.py that train in this process: SFT steps, and logits by chunks."""

import contextlib
import random
import statistics
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch
from check import Row, Sizes
from torch.profiler import ProfilerActivity, profile
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM

from rlhf_core.batching.batch import Batch, Sequence, collate, device
from rlhf_core.config import SFT, Recipe
from rlhf_core.engine.checkpoint import Checkpoint
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.modeling.models import PolicyModel
from rlhf_core.modeling.packed_attention import without_padding
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.objectives.losses import cross_entropy
from rlhf_core.plan.layout import strategy_of
from rlhf_core.plan.presets import preset
from rlhf_core.plan.shape import ModelShape
from rlhf_core.plan.stage_plan import StageModels
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import Hardware

# dense bfloat16 products per second, of the cards' data sheets
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
TINY = ModelShape("tiny", "a test", 4096, 32, 64, 2, 2, 1, 16, tied=True, qkv_bias=True)
PROMPT = 8
GROUP = 4  # replies to a prompt


class Peak:
    """The most bytes that torch's allocator held at once, beyond those at the beginning."""

    bytes = 0


@contextlib.contextmanager
def peak_memory() -> Iterator[Peak]:
    """Measure while open: by the GPU's allocator, or by the profiler on a CPU."""
    found = Peak()
    if device().type == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        yield found
        torch.cuda.synchronize()
        found.bytes = torch.cuda.max_memory_allocated() - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield found
    events = [e for e in profiler.profiler.kineto_results.events() if e.name() == "[memory]"]
    held = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        found.bytes = max(found.bytes, held)


def sft(sizes: Sizes) -> list[Row]:
    """Take SFT steps in bfloat16; return MFU, the planner's error, and the attention kernels."""
    return [row for name in sizes.models for row in _sft_of(name, sizes)]


def _sft_of(name: str, sizes: Sizes) -> list[Row]:
    shape = TINY if name == "tiny" else preset(name)
    sequence = Sequence([5] * PROMPT, [6] * (sizes.length - PROMPT))
    with peak_memory() as peak:
        policy = PolicyModel(_model(shape))
        # attention's own log-sums and the optimizer's states belong to the plan
        engine = DeepSpeedEngine(policy, SFT(), dtype="bfloat16")
        batch = collate([sequence] * sizes.rows, 0)
        second = _median_seconds(engine, batch, sizes.steps)
    tokens = sizes.rows * sizes.length
    # Chowdhery et al. 2022 (PaLM), arXiv:2204.02311, appendix B; the causal half counts in full
    flops = 6 * shape.policy + 12 * shape.layers * shape.query_width * sizes.length
    card = torch.cuda.get_device_name() if torch.cuda.is_available() else ""
    limit = next((flop for word, flop in PEAK_FLOPS.items() if word in card), None)
    mfu = flops * tokens / second / limit if limit else None
    planned = _planned(shape, sizes)
    error = planned / peak.bytes - 1
    close = None if sizes.tiny or device().type == "cpu" else abs(error) <= 0.1
    kernels = _attention_kernels(engine, batch)
    waits = _checkpoint_waits(engine) if name == sizes.models[0] else ""
    told = "no known GPU" if mfu is None else f"{mfu:.1%}"
    return [
        Row("sft", f"{name}: tokens per second", f"{tokens / second:,.0f}"),
        Row("sft", f"{name}: MFU", told, ">= 45%", None if mfu is None else mfu >= 0.45),
        Row(
            "sft",
            f"{name}: plan against allocated, GiB",
            f"{planned / 2**30:.2f} / {peak.bytes / 2**30:.2f} ({error:+.1%})",
            "within 10%",
            close,
        ),
        Row("sft", f"{name}: attention kernels", ", ".join(kernels) or "none named"),
        *([Row("sft", f"{name}: wait for a checkpoint, s", waits)] if waits else []),
    ]


def packing(sizes: Sizes) -> list[Row]:
    """Take steps on ragged rows, padded and packed, and on groups, whose prompts may be shared.

    Return the speeds, by all tokens of each sequence, and the kernels.
    """
    name = sizes.models[0]
    rng, shape = random.Random(0), TINY if name == "tiny" else preset(name)
    lengths = [rng.randint(sizes.length // 8, sizes.length) for _ in range(2 * sizes.rows)]
    ragged = collate([Sequence([5] * PROMPT, [6] * max(1, n - PROMPT)) for n in lengths], 0)
    half = sizes.length // 2
    groups = collate([Sequence([5 + i // GROUP] * half, [6] * half) for i in range(sizes.rows)], 0)
    rows, rates = [], []
    for how, batch, options in (
        ("padded", ragged, {"on": False}),
        ("packed", ragged, {"on": True}),
        ("groups packed", groups, {"on": True}),
        ("groups' prompts shared", groups, {"on": True, "share_prompts": True}),
    ):
        policy = without_padding(PolicyModel(_model(shape)), dtype="bfloat16", **options)
        engine = DeepSpeedEngine(policy, SFT(), dtype="bfloat16")
        rates.append(int(batch.mask_BL.sum()) / _median_seconds(engine, batch, sizes.steps))
        attention = str(policy.model.config._attn_implementation)
        kernels = ", ".join(_attention_kernels(engine, batch)) or "none named"
        what = f"{name}: {how}, {attention}"
        rows.append(Row("packing", what, f"{rates[-1]:,.0f} tokens/s"))
        rows.append(Row("packing", f"{what}: kernels", kernels))
    shared = f"{name}: {GROUP} to a prompt, shared to packed"
    return [
        *rows,
        Row("packing", f"{name}: packed to padded", f"{rates[1] / rates[0]:.2f}"),
        Row("packing", shared, f"{rates[3] / rates[2]:.2f}"),
    ]


def _median_seconds(engine: DeepSpeedEngine, batch: Batch, steps: int) -> float:
    """Return the seconds of a step, after two that warm up."""
    for _ in range(2):
        _step(engine, batch)
    seconds = []
    for _ in range(steps):
        started = _now()
        _step(engine, batch)
        seconds.append(_now() - started)
    return statistics.median(seconds)


def _model(shape: ModelShape) -> Qwen2ForCausalLM:
    config = Qwen2Config(
        vocab_size=shape.vocabulary,
        hidden_size=shape.hidden,
        intermediate_size=shape.intermediate,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        tie_word_embeddings=shape.tied,
        pad_token_id=0,
    )
    torch.manual_seed(0)
    with device():
        return Qwen2ForCausalLM(config)


def _step(engine: DeepSpeedEngine, batch: Batch) -> None:
    logprobs_BR = engine(batch, query=TokenQuery()).logprobs_BR
    mask_BR = batch.response_mask_BR
    engine.backward(cross_entropy(logprobs_BR, mask_BR, int(mask_BR.sum())))
    engine.step(1e-5)


def _checkpoint_waits(engine: DeepSpeedEngine) -> str:
    """Return how long a step waits for a checkpoint, in the step and beside the steps."""
    found = {}
    for how, beside in {"in the step": False, "beside": True}.items():
        config = SFT(async_checkpoints=beside)
        with (
            tempfile.TemporaryDirectory(prefix="check-") as folder,
            CheckpointWriter(Path(folder), config) as writer,
        ):
            started = _now()
            writer.save(Checkpoint(1, engine.state(), {}))
            found[how] = time.monotonic() - started
    return ", ".join(f"{seconds:.2f} {how}" for how, seconds in found.items())


def _now() -> float:
    if device().type == "cuda":
        torch.cuda.synchronize()
    return time.monotonic()


def _planned(shape: ModelShape, sizes: Sizes) -> float:
    recipe = Recipe.model_validate(
        {
            "name": "check",
            "model": {"base": "none", "dtype": "bfloat16"},
            "data": {
                "demonstrations": "none",
                "comparisons": "none",
                "max_prompt_tokens": PROMPT,
                "max_response_tokens": sizes.length - PROMPT,
            },
            "sft": {"micro_batch_tokens": sizes.rows * sizes.length},
            "registry": {"name": "check"},
        }
    )
    models, everything = StageModels(shape, shape), Hardware("gpu", 2**60, 0)
    return plan_stage(recipe, "sft", models, strategy_of(recipe, "sft", 1), everything).peak


def _attention_kernels(engine: DeepSpeedEngine, batch: Batch) -> list[str]:
    kinds = [ProfilerActivity.CPU]
    if device().type == "cuda":
        kinds.append(ProfilerActivity.CUDA)
    with profile(activities=kinds) as profiler:
        _step(engine, batch)
    words = ("flash", "fmha", "efficient_attention", "cudnn_attention")
    names = {e.key for e in profiler.key_averages() if any(w in e.key.lower() for w in words)}
    return sorted(name.removeprefix("aten::")[:60] for name in names)[:3]


def logits(sizes: Sizes) -> list[Row]:
    """Run one update's passes with whole logits and by chunks; return peaks, times, differences."""
    return [row for hidden in sizes.hidden for row in _logits_of(hidden, sizes)]


def _logits_of(hidden: int, sizes: Sizes) -> list[Row]:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=1,
        num_attention_heads=2,
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config).to(device())
    rows = 8
    response = [6 + place for place in range(sizes.positions // rows)]
    batch = collate([Sequence([5] * PROMPT, response)] * rows, 0)
    unit = 4.0 * sizes.positions * sizes.vocabulary * 4
    found = {}
    for name, mib in (("whole", 2**20), ("chunks", sizes.logits_mib)):
        policy = PolicyModel(model, logits_mib=mib)
        _pass(policy, replace(batch, response_mask_BR=batch.response_mask_BR[:, :4]))  # .grad
        model.zero_grad(set_to_none=False)
        with peak_memory() as peak:
            started = _now()
            logprobs_BR = _pass(policy, batch)
            seconds = _now() - started
        gradient = model.lm_head.weight.grad.clone()
        found[name] = (peak.bytes / unit, seconds, logprobs_BR, gradient)
    whole, chunks = found["whole"], found["chunks"]
    difference = float((whole[2] - chunks[2]).abs().max())
    moved = float((whole[3] - chunks[3]).abs().max() / whole[3].abs().max())
    what, goal = f"hidden {hidden}, vocabulary {sizes.vocabulary:,}: ", f"<= {sizes.limit}"
    return [
        Row(
            "logits",
            f"{what}peak of 4.0 T V 4",
            f"whole {whole[0]:.2f}, chunks {chunks[0]:.3f}",
            goal,
            chunks[0] <= sizes.limit,
        ),
        Row("logits", f"{what}seconds", f"whole {whole[1]:.2f}, chunks {chunks[1]:.2f}"),
        Row(
            "logits",
            f"{what}difference",
            f"{difference:.1e} nats, gradient {moved:.1e}",
            "<= 1e-5",
            max(difference, moved) <= 1e-5,
        ),
    ]


def _pass(policy: PolicyModel, batch: Batch) -> torch.Tensor:
    logprobs_BR = policy(batch, query=TokenQuery()).logprobs_BR
    (-logprobs_BR.sum() / logprobs_BR.numel()).backward()
    return logprobs_BR.detach()
