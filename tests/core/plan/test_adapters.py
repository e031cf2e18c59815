"""The planner's arithmetic of layouts, against counts and autograd.

Layouts: adapters, no copy of the reference, a shared critic.
"""

import pytest
import torch
from recipes import llama_recipe
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import LoRA
from rlhf_core.modeling.lora import add_adapter
from rlhf_core.modeling.models import PolicyModel
from rlhf_core.objectives.losses import cross_entropy, token_logprobs
from rlhf_core.plan import memory
from rlhf_core.plan.adapters import activations_change, adapter_parameters
from rlhf_core.plan.layout import strategy_of
from rlhf_core.plan.memory import BatchShape
from rlhf_core.plan.presets import preset
from rlhf_core.plan.shape import ModelShape, shape_of
from rlhf_core.plan.stage_plan import StageModels, StagePlan
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import GIB, Hardware, Strategy

SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 16,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
}
LORAS = [
    LoRA(),
    LoRA(rank=32),
    LoRA(target_modules=("q_proj", "v_proj")),
    LoRA(target_modules=("gate_proj", "mlp.down_proj")),
]
H100 = Hardware("gpu", 80 * GIB, 2 * GIB)


def made(family: str, lora: LoRA, **changes) -> tuple[PolicyModel, ModelShape]:
    config = AutoConfig.for_model(family, **SMALL | changes)
    policy = PolicyModel(AutoModelForCausalLM.from_config(config))
    add_adapter(policy.model, lora, seed=1)
    return policy, shape_of(config.to_dict(), family, "a test")


@pytest.mark.parametrize("lora", LORAS, ids=("default", "rank 32", "q v", "gate down"))
@pytest.mark.parametrize("family", ["llama", "qwen3"])
def test_adapter_parameters_are_those_that_learn(family, lora):
    policy, shape = made(family, lora)
    assert adapter_parameters(shape, lora) == sum(
        p.numel() for p in policy.parameters() if p.requires_grad
    )


@pytest.mark.parametrize("lora", LORAS, ids=("default", "rank 32", "q v", "gate down"))
@pytest.mark.parametrize("family", ["llama", "qwen3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_saved_activations_are_what_autograd_keeps(family, dtype, lora):
    policy, shape = made(family, lora)
    strategy, saved = Strategy(1, dtype=dtype), {}
    batch = collate([Sequence([5] * 3, [6] * 20), Sequence([5] * 7, [6] * 16)], 0)
    # their bfloat16 copies have the same shapes
    weights = {tuple(sorted(p.shape)) for p in policy.parameters()}

    def keep(tensor):
        if tuple(sorted(tensor.shape)) not in weights:
            saved[tensor.untyped_storage()._cdata] = (tensor.untyped_storage().nbytes(), tensor)
        return tensor

    with (
        torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor),
        torch.autocast("cpu", torch.bfloat16, enabled=strategy.autocast),
    ):
        ids = {"attention_mask": batch.mask_BL.long(), "position_ids": batch.position_ids_BL}
        policy.model.base_model(batch.ids_BL, use_cache=False, **ids)
    tokens = batch.ids_BL.numel()
    sizes = BatchShape(tokens, batch.ids_BL.shape[1], tokens)
    predicted = memory.saved_activations(shape, sizes, strategy) + activations_change(
        shape, sizes, strategy, lora
    )
    assert predicted == pytest.approx(sum(size for size, _ in saved.values()), rel=0.05)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_predicted_peak_of_a_microbatch_is_what_the_allocator_holds(dtype):
    widths = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "head_dim": 32,
        "num_key_value_heads": 4,
        "vocab_size": 64,
    }
    policy, shape = made("llama", LoRA(), **widths)
    strategy = Strategy(1, dtype=dtype)
    batch = collate([Sequence([5] * 4, [6] * 60)] * 4, 0)
    sizes = BatchShape(tokens=256, length=64, positions=244)

    def step():
        with torch.autocast("cpu", torch.bfloat16, enabled=strategy.autocast):
            logits_BRV = policy(batch)
        cross_entropy(
            token_logprobs(logits_BRV, batch.response_ids_BR), batch.response_mask_BR, 1.0
        ).backward()

    step()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        step()
    held = peak = 0
    events = [
        event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"
    ]
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak = max(peak, held)
    predicted = memory.saved_activations(shape, sizes, strategy) + activations_change(
        shape, sizes, strategy, LoRA()
    )
    predicted += memory.working_tensors(shape, sizes, strategy, learns=True)
    adapters = adapter_parameters(shape, LoRA())
    predicted += memory.training_state(
        0, shape.layers * shape.layer_matrices + shape.embedding, strategy, adapters=adapters
    ).casts
    assert predicted == pytest.approx(peak, rel=0.06)


def test_states_of_adapters_are_theirs_alone():
    state = memory.training_state(10**9, 0, Strategy(1), adapters=10**7)
    assert (state.weights, state.gradients, state.optimizer) == (4.04e9, 4e7, 8e7)
    sharded = memory.training_state(10**9, 0, Strategy(1, zero_stage=2, devices=4), adapters=10**7)
    assert (sharded.weights, sharded.gradients, sharded.optimizer) == (4.04e9, 4e7 / 4, 12e7 / 4)


def test_zero_3_divides_the_frozen_weights_too():
    """4 (P + A) / N, and DeepSpeed's default of 10^9 numbers that are gathered at once."""
    strategy = Strategy(1, zero_stage=3, devices=4)
    state = memory.training_state(10 * 10**9, 0, strategy, adapters=10**8)
    assert state.weights == 4 * (10.1e9 / 4 + 10**9)
    assert (state.gradients, state.optimizer) == (4e8 / 4, 12e8 / 4)


def planned(stage: str, **sections) -> StagePlan:
    base = {"base": "llama-2-7b", "dtype": "bfloat16"}
    recipe = llama_recipe(**{"model": base} | sections)
    return plan_stage(
        recipe, stage, StageModels(preset("7b"), preset("7b")), strategy_of(recipe, stage, 1), H100
    )


def sizes(plan: StagePlan, kind: str) -> dict[str, float]:
    models = {part.model for part in plan.parts if part.kind == kind}
    return {
        name: sum(part.bytes for part in plan.parts if (part.model, part.kind) == (name, kind))
        for name in models
    }


def test_adapters_leave_the_weights_and_take_the_states():
    whole, adapted = (
        planned("sft", sft={"lora": lora, "micro_batch_tokens": 2048}) for lora in (False, True)
    )
    ours = adapter_parameters(preset("7b"), LoRA())
    assert sizes(adapted, "weights")["policy"] - sizes(whole, "weights")["policy"] == 4 * ours
    assert sizes(adapted, "optimizer")["policy"] == 8 * ours and ours == 8 * 32 * (
        4 * 8192 + 3 * (4096 + 11008)
    )
    assert adapted.fits and not whole.fits


ALL = {"lora": True, "reference": "adapter-off", "reward_trunk": "reference", "critic": "shared"}
LAYOUTS = {
    "critic": ({"critic": "shared"}, {"actor", "reward", "reference", "vLLM"}),
    "reference": (
        {"lora": True, "reference": "adapter-off"},
        {"actor", "critic", "reward", "vLLM"},
    ),
    "reward": ({"reward_trunk": "reference"}, {"actor", "critic", "reward", "reference", "vLLM"}),
    "all": (ALL, {"actor", "reward", "vLLM"}),
}


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_layout_holds_the_models_that_it_says(name):
    options, models = LAYOUTS[name]
    plan = planned("ppo", ppo=options, reward={"lora": True})
    assert set(sizes(plan, "weights")) == models
    if "reward_trunk" in options:
        assert sizes(plan, "weights")["reward"] == 4 * (
            adapter_parameters(preset("7b"), LoRA()) + 4096
        )
    assert plan.peak < planned("ppo").peak


def test_ppo_of_7b_on_one_trunk_fits_one_device():
    options = {"kv_cache_mib": 8192, "max_new_tokens": 64}
    plan = planned(
        "ppo", ppo=ALL | {"micro_batch_tokens": 2048, "sampling": options}, reward={"lora": True}
    )
    assert plan.fits and planned("ppo").peak > 3.5 * plan.peak
