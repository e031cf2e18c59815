"""Bytes of states, activations and cache against published and counted numbers."""

from dataclasses import replace

import pytest
import torch
from stage_plans import FAMILIES, config_of, small
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.engine import deepspeed
from rlhf_core.modeling.models import PolicyModel
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.objectives.losses import cross_entropy, token_entropy, token_logprobs
from rlhf_core.plan import memory
from rlhf_core.plan.memory import BatchShape
from rlhf_core.plan.presets import preset
from rlhf_core.plan.shape import ModelShape, shape_of
from rlhf_core.plan.strategy import Strategy


@pytest.mark.parametrize(
    ("stage", "devices", "held"),
    [(0, 1, 16), (0, 8, 16), (1, 8, 8 + 12 / 8), (2, 8, 4 + 16 / 8), (2, 64, 4 + 16 / 64)],
)
def test_states_of_adam_take_the_bytes_a_parameter_that_zero_says(stage, devices, held):
    """Rajbhandari et al. 2020, figure 1, with 4-byte weights and gradients.

    16 bytes in all, the same as 2 + 2 + 12.
    """
    state = memory.training_state(10**9, 0, Strategy(1, zero_stage=stage, devices=devices))
    assert state.weights + state.gradients + state.optimizer == pytest.approx(held * 10**9)


def test_zero_3_divides_all_states_and_holds_what_it_gathers():
    state = memory.training_state(70 * 10**9, 0, Strategy(1, zero_stage=3, devices=64))
    gathered = 4 * memory.LIVE_PARAMETERS
    assert state.weights + state.gradients + state.optimizer == pytest.approx(
        20 * 70e9 / 64 + gathered
    )


def test_half_weights_take_the_16_bytes_of_mixed_precision():
    state = memory.training_state(10**9, 0, Strategy(1, zero_stage=1, half_weights=True))
    assert (state.weights, state.gradients, state.optimizer) == (2e9, 2e9, 12e9)


def test_offloading_moves_the_optimizer_to_the_host():
    on = memory.training_state(10**9, 0, Strategy(1, zero_stage=2, devices=4))
    off = memory.training_state(
        10**9, 0, Strategy(1, zero_stage=2, devices=4, offload_optimizer=True)
    )
    assert (off.optimizer, off.host) == (0, on.optimizer + 4 * 10**9 / 4)
    assert (off.weights, off.gradients) == (on.weights, on.gradients)


def test_the_planned_gradient_bucket_is_that_of_training():
    """The plan is made without torch, and cannot read it there."""
    assert memory.BUCKET == deepspeed.REDUCE_BUCKET


def test_moments_on_disk_are_in_memory_while_the_optimizer_steps():
    plain = memory.training_state(10**9, 0, Strategy(1))
    disk = memory.training_state(10**9, 0, Strategy(1, offload_optimizer="disk"))
    assert (disk.optimizer, disk.stepping) == (0, plain.stepping + 8e9)
    host = Strategy(1, zero_stage=2, devices=4, offload_optimizer=True)
    moved = memory.training_state(10**9, 0, host)
    disk = memory.training_state(10**9, 0, replace(host, offload_optimizer="disk"))
    assert (disk.optimizer, disk.stepping) == (moved.optimizer, moved.stepping) == (0, 0)
    assert disk.host == moved.host - 8e9 / 4


@pytest.mark.parametrize(
    ("name", "kib"), [("llama-2-7b", 512), ("llama-2-70b", 320), ("llama-3-8b", 128)]
)
def test_kv_cache_of_a_token(name, kib):
    assert memory.kv_bytes_per_token(preset(name), Strategy(1, dtype="bfloat16")) == kib * 1024


def saved_bytes(
    family: str, strategy: Strategy, sequences: list[Sequence]
) -> tuple[int, BatchShape]:
    """Return the bytes that autograd keeps of the backbone's forward pass, and the batch.

    Weights and their casts are not counted.
    """
    model = AutoModelForCausalLM.from_config(config_of(family)).base_model
    if strategy.half_weights:
        model = model.bfloat16()
    batch, saved = collate(sequences, 0), {}
    matrices = {tuple(sorted(p.shape)) for p in model.parameters()}
    tokens = batch.ids_BL.numel()

    def keep(tensor):
        storage = tensor.untyped_storage()
        if tuple(sorted(tensor.shape)) not in matrices:
            saved[storage._cdata] = (storage.nbytes(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=strategy.autocast),
    ):
        model(
            batch.ids_BL,
            attention_mask=batch.mask_BL.long(),
            position_ids=batch.position_ids_BL,
            use_cache=False,
        )
    return sum(size for size, _ in saved.values()), BatchShape(
        tokens, batch.ids_BL.shape[1], tokens
    )


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    "strategy",
    [Strategy(1), Strategy(1, dtype="bfloat16"), Strategy(1, half_weights=True)],
    ids=("float32", "autocast", "half"),
)
def test_saved_activations_are_what_autograd_keeps(family, strategy):
    sequences = [Sequence([5] * 3, [6] * 20), Sequence([5] * 7, [6] * 16)]
    kept, batch = saved_bytes(family, strategy, sequences)
    assert memory.saved_activations(small(family), batch, strategy) == pytest.approx(kept, rel=0.01)


def allocated(function) -> tuple[int, int]:
    """Return the most bytes that torch's CPU allocator held during a call, and those at its end.

    Bytes that were held before the call are not counted.
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        kept = function()
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    held = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    del kept
    return peak, held


def wide_model(vocabulary: int, hidden: int = 128) -> tuple[PolicyModel, ModelShape]:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=256,
        pad_token_id=0,
    )
    return PolicyModel(AutoModelForCausalLM.from_config(config)), shape_of(
        config.to_dict(), "wide", "a test"
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("vocabulary", [64, 8192])  # working tensors decide, logits decide
def test_predicted_peak_of_a_microbatch_is_what_the_allocator_holds(dtype, entropy, vocabulary):
    model, shape = wide_model(vocabulary)
    strategy = Strategy(1, dtype=dtype)
    batch = collate([Sequence([5] * 4, [6] * 60), Sequence([5] * 2, [6] * 60)], 0)
    sizes = BatchShape(tokens=128, length=64, positions=122)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=strategy.autocast):
            logits_BRV = model(batch)
        loss = cross_entropy(
            token_logprobs(logits_BRV, batch.response_ids_BR), batch.response_mask_BR, 1.0
        )
        loss = loss - entropy * token_entropy(logits_BRV).sum() if entropy else loss
        del logits_BRV
        loss.backward()

    step()  # gradients exist from the first microbatch on
    predicted = memory.saved_activations(shape, sizes, strategy) + max(
        memory.working_tensors(shape, sizes, strategy, learns=True),
        memory.logits(shape, sizes, strategy, learns=True, entropy=entropy),
    )
    state = memory.training_state(
        shape.policy, shape.layers * shape.layer_matrices + shape.embedding, strategy
    )
    assert predicted + state.casts == pytest.approx(allocated(step)[0], rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("entropy", [False, True])
# chunks decide; gradients of the output layer decide
@pytest.mark.parametrize("hidden", [64, pytest.param(512, marks=pytest.mark.slow)])
def test_predicted_peak_of_logits_by_chunks_is_what_the_allocator_holds(dtype, entropy, hidden):
    model, shape = wide_model(16_384, hidden)
    strategy = Strategy(1, dtype=dtype, logits_mib=4)  # 64 positions
    model = PolicyModel(model.model, logits_mib=4)
    # more positions than the output layer is wide: below, its gradient is larger than the logits
    batch = collate([Sequence([5] * 4, [6] * 64)] * 12, 0)
    sizes = BatchShape(tokens=12 * 68, length=68, positions=12 * 64)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=strategy.autocast):
            scores = model(batch, query=TokenQuery(entropy=entropy))
        loss = cross_entropy(scores.logprobs_BR, batch.response_mask_BR, 1.0)
        loss = loss - scores.entropy_BR.sum() if entropy else loss
        del scores
        loss.backward()

    step()  # gradients exist from the first microbatch on
    assert memory.chunk_positions(shape, sizes, strategy) == 64
    predicted = memory.saved_activations(shape, sizes, strategy) + max(
        memory.working_tensors(shape, sizes, strategy, learns=True),
        memory.chunked_logits(shape, sizes, strategy, entropy_learns=entropy, head_learns=True),
    )
    state = memory.training_state(
        shape.policy, shape.layers * shape.layer_matrices + shape.embedding, strategy
    )
    assert predicted + state.casts == pytest.approx(allocated(step)[0], rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predicted_peak_without_gradients_is_what_the_allocator_holds(dtype):
    model, shape = wide_model(8192)
    strategy = Strategy(1, dtype=dtype)
    batch = collate([Sequence([5] * 4, [6] * 60)] * 2, 0)
    sizes = BatchShape(tokens=128, length=64, positions=122)
    model.requires_grad_(False)

    def score():
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=strategy.autocast):
            return token_logprobs(model(batch), batch.response_ids_BR)

    score()
    predicted = memory.logits(shape, sizes, strategy, learns=False)
    assert predicted == pytest.approx(allocated(score)[0], rel=0.05)


def test_checkpointing_keeps_the_input_of_each_layer():
    model, shape = wide_model(64)
    model.model.gradient_checkpointing_enable()
    model.train()
    batch = collate([Sequence([5] * 4, [6] * 60)] * 4, 0)
    sizes, strategy = (
        BatchShape(batch.ids_BL.numel(), 64, batch.ids_BL.numel()),
        Strategy(1, checkpointing=True),
    )

    def forward():
        return model.model.base_model(
            batch.ids_BL, attention_mask=batch.mask_BL.long(), use_cache=False
        ).last_hidden_state

    forward()
    kept = allocated(forward)[1] - sizes.tokens * shape.hidden * 4  # less the output itself
    layer = (
        memory.saved_activations(shape, sizes, replace(strategy, checkpointing=False))
        / shape.layers
    )
    assert memory.saved_activations(shape, sizes, strategy) - layer == pytest.approx(kept, rel=0.1)
