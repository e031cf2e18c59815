"""The models that each stage holds, and its peak."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from stage_plans import H100, planned

from rlhf_core.plan.layout import MODEL_STAGES
from rlhf_core.plan.presets import preset
from rlhf_core.plan.strategy import GIB, Hardware


def test_ppo_holds_four_models_and_vllm():
    plan = planned("7b", "ppo")
    weights = {part.model: part.bytes for part in plan.parts if part.kind == "weights"}
    assert weights == {
        "actor": 28e9,
        "critic": 28e9,
        "reward": 28e9,
        "reference": 28e9,
        "vLLM": 28e9,
    }
    assert {part.model for part in plan.parts if part.kind == "optimizer"} == {"actor", "critic"}


def test_vllm_holds_cuda_graphs_on_gpus_unless_it_runs_eagerly():
    def graphs(hardware=H100, **sampling):
        plan = planned("7b", "ppo", hardware, ppo={"sampling": sampling})
        return [
            part.bytes
            for part in plan.parts
            if part.model in ("vLLM", "transformers") and part.kind == "buffers"
        ]

    assert graphs() == graphs(eager=False) == [GIB]
    assert graphs(eager=True) == graphs(engine="transformers") == []
    assert graphs(Hardware("cpu", 80 * GIB, GIB), eager=False) == []


def test_a_sampler_that_generates_ahead_works_in_every_phase_of_one_memory():
    """On GPUs its devices are its own, and it is planned apart."""
    own = {"sampling": {"own_devices": 1}, "importance_cap": 2.0}
    for age, working in ((0, {"generation"}), (1, None)):
        section = own | {"max_rollout_age": age}
        plan = planned("7b", "ppo", Hardware("cpu", 80 * GIB, GIB), ppo=section)
        logits = [p for p in plan.parts if (p.model, p.kind) == ("vLLM", "logits")]
        held = {phase for phase in plan.phases if logits[0].held_in(phase)}
        assert held == (working or set(plan.phases)) and len(plan.phases) > 3
        gpu = planned("7b", "ppo", ppo=section)
        assert "vLLM" not in {part.model for part in gpu.parts}


def test_an_adapter_that_vllm_gets_alone_is_held_beside_the_base_model():
    sizes = [
        planned("7b", "ppo", ppo={"lora": {"rank": 8}, "sampling": {"adapter_sync": adapter}}).peak
        for adapter in (False, True)
    ]
    # 32 layers; of 4 square maps of 4,096 and 3 of 4,096 by 11,008 a rank-8 adapter, float32
    assert sizes[1] - sizes[0] == 4 * 32 * 8 * (4 * 2 * 4_096 + 3 * (4_096 + 11_008))


def test_without_a_critic_there_is_none():
    ppo = {"advantage": "rloo", "group_size": 2}
    assert "critic" not in {part.model for part in planned("7b", "ppo", ppo=ppo).parts}


def test_activations_of_actor_and_critic_are_not_held_at_once():
    plan = planned("7b", "ppo")
    held = {
        part.model
        for part in plan.parts
        if part.kind == "activations" and part.held_in(plan.peak_phase)
    }
    assert held == {"actor"}


def test_the_gradients_of_one_model_are_held_at_a_time():
    plan = planned("7b", "ppo")
    for phase in plan.phases:
        held = {p.model for p in plan.parts if p.kind == "gradients" and p.held_in(phase)}
        assert len(held) == (0 if phase in ("experience", "generation") else 1)


def test_the_samplers_log_probabilities_spare_the_actors_logits_in_scoring():
    plans = {
        name: planned("7b", "ppo", ppo={"old_logprobs": name}) for name in ("recompute", "sampler")
    }
    logits = {
        name: {
            p.model: p.bytes for p in plan.parts if p.kind == "logits" and p.held_in("experience")
        }
        for name, plan in plans.items()
    }
    assert [*logits["recompute"]] == ["actor"] and [*logits["sampler"]] == ["reference"]
    assert logits["sampler"]["reference"] <= logits["recompute"]["actor"]
    assert plans["sampler"].peak == plans["recompute"].peak  # which is in the update


@pytest.mark.parametrize(
    ("model", "factor"),
    [
        ({"dtype": "float32"}, 2.0),
        ({"dtype": "float32", "frozen_dtype": "bfloat16"}, 1.0),
        ({"dtype": "bfloat16"}, 1.0),
        ({"dtype": "bfloat16", "frozen_dtype": "float32"}, 2.0),
    ],
)
def test_matrices_that_do_not_learn_take_two_or_four_bytes_and_embeddings_four(model, factor):
    shape = preset("llama-2-7b")
    plan = planned("llama-2-7b", "ppo", model={"base": "m"} | model)
    found = {p.model: p.bytes for p in plan.parts if p.kind == "weights"}
    embedding = shape.vocabulary * shape.hidden
    assert found["reference"] == 2 * factor * (shape.policy - embedding) + 4 * embedding
    assert found["reward"] == 2 * factor * (shape.scalar - embedding) + 4 * embedding
    assert found["actor"] == 4 * shape.policy


@pytest.mark.parametrize(
    ("model", "rests"),
    [
        ({"dtype": "float32"}, {"reference", "reward"}),
        ({"dtype": "bfloat16"}, set()),  # converted into memory
        ({"dtype": "float32", "export_dtype": "bfloat16"}, set()),
        ({"dtype": "float32", "reward": "r"}, {"reference"}),  # of a type that nobody has looked at
    ],
)
def test_on_a_cpu_models_in_their_files_are_in_memory_while_they_score(model, rests):
    cpu = Hardware("cpu", 80 * GIB, GIB)
    plan = planned("llama-2-7b", "ppo", cpu, model={"base": "m"} | model)
    held = {p.model: p for p in plan.parts if p.kind == "weights"}
    assert {name for name, part in held.items() if part.phases == ("experience",)} == rests
    gpu = planned("llama-2-7b", "ppo", model={"base": "m"} | model)
    assert {p.phases for p in gpu.parts if p.model in ("reference", "reward")} == {None}


def test_one_device_without_zero_copies_no_gradients():
    alone, two = (planned("7b", "sft", devices=count) for count in (1, 2))
    bytes_of = [sum(p.bytes for p in plan.parts if p.kind == "buffers") for plan in (alone, two)]
    assert bytes_of[0] == 0 and bytes_of[1] > 0


def test_an_entropy_bonus_costs_logits_of_the_actor_only():
    plain, bonus = (
        {s: planned("7b", s, ppo={"entropy_coef": c}) for s in ("sft", "ppo")} for c in (0.0, 0.01)
    )
    assert bonus["ppo"].peak > plain["ppo"].peak
    assert bonus["sft"].peak == plain["sft"].peak


def test_the_peak_is_the_largest_phase_and_the_overhead():
    plan = planned("7b", "ppo")
    assert plan.peak == max(plan.bytes_in(phase) for phase in plan.phases) + H100.overhead
    assert plan.fits == (plan.spare >= 0) == (plan.peak <= H100.capacity)


@given(st.integers(64, 65_536), st.integers(64, 65_536), st.sampled_from(MODEL_STAGES))
def test_more_tokens_at_once_never_need_less(one, other, stage):
    sizes = [
        planned("7b", stage, **{stage: {"micro_batch_tokens": tokens}}).peak
        for tokens in sorted((one, other))
    ]
    assert sizes[0] <= sizes[1]


@given(st.sampled_from(MODEL_STAGES), st.sampled_from((1, 2)), st.integers(0, 5))
def test_more_devices_never_need_more_of_each(stage, zero_stage, doublings):
    section = {stage: {} if stage == "evaluate" else {"zero_stage": zero_stage}}
    few, many = (
        planned("7b", stage, devices=2 ** (doublings + more), **section).peak for more in (0, 1)
    )
    assert many <= few
