"""The memory planner's arithmetic: parameters, states, activations and cache against published and
counted numbers.
"""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recipes import llama_recipe
from torch.profiler import ProfilerActivity, profile
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.modeling.models import PolicyModel
from rlhf_core.objectives.losses import cross_entropy, token_entropy, token_logprobs
from rlhf_core.plan import memory
from rlhf_core.plan.layout import MODEL_STAGES, strategy_of
from rlhf_core.plan.memory import BatchShape
from rlhf_core.plan.picture import draw_plans
from rlhf_core.plan.presets import preset
from rlhf_core.plan.remedies import find_remedy, is_possible
from rlhf_core.plan.report import half_weights_gb
from rlhf_core.plan.shape import ModelShape, shape_of
from rlhf_core.plan.source import find_models
from rlhf_core.plan.stage_plan import StageModels, StagePlan
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import GIB, Hardware, Strategy

PUBLISHED = {  # parameters as transformers counts the released models
    "smollm2-135m": 134_515_008,
    "llama-2-7b": 6_738_415_616,
    "llama-2-13b": 13_015_864_320,
    "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248,
    "llama-3-70b": 70_553_706_496,
    "mistral-7b": 7_241_732_096,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-7b": 7_615_616_512,
}
SMALL = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 64,
}
FAMILIES = {
    "grouped queries": {"model_type": "llama"},
    "tied": {"model_type": "llama", "tie_word_embeddings": True},
    "no groups": {"model_type": "llama", "num_key_value_heads": 4, "head_dim": 16},
    "biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "mistral": {"model_type": "mistral"},
    "qwen2": {"model_type": "qwen2", "head_dim": 16},
    "qwen3": {"model_type": "qwen3", "attention_bias": True},
}
H100 = Hardware("gpu", 80 * GIB, 2 * GIB)


def config_of(family: str) -> AutoConfig:
    return AutoConfig.for_model(**SMALL | FAMILIES[family], num_labels=1, pad_token_id=0)


def small(family: str) -> ModelShape:
    return shape_of(config_of(family).to_dict(), family, "a test")


# parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_preset_has_the_published_number_of_parameters(name):
    assert preset(name).policy == PUBLISHED[name]


@pytest.mark.parametrize("family", FAMILIES)
def test_parameters_are_those_that_transformers_makes_of_the_config(family):
    shape, config = small(family), config_of(family)
    with torch.device("meta"):
        policy = AutoModelForCausalLM.from_config(config)
        scalar = AutoModelForSequenceClassification.from_config(config)
    assert shape.policy == sum(p.numel() for p in policy.parameters())
    assert shape.scalar == sum(p.numel() for p in scalar.parameters())
    linear = [m for m in policy.modules() if isinstance(m, torch.nn.Linear)]
    assert shape.layers * shape.layer_matrices + shape.embedding == sum(
        m.weight.numel() for m in linear
    )


def test_four_models_of_7b_are_56_gb_of_16_bit_weights():
    sizes = half_weights_gb(StageModels(preset("7b"), preset("7b")))
    assert sizes == {"actor": 14.0, "critic": 14.0, "reward": 14.0, "reference": 14.0}


# states


@pytest.mark.parametrize(
    ("stage", "devices", "held"),
    [(0, 1, 16), (0, 8, 16), (1, 8, 8 + 12 / 8), (2, 8, 4 + 16 / 8), (2, 64, 4 + 16 / 64)],
)
def test_states_of_adam_take_the_bytes_a_parameter_that_zero_says(stage, devices, held):
    """Rajbhandari et al. 2020, figure 1, with 4-byte weights and gradients: 16 in all, the same as
    2 + 2 + 12.
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


@pytest.mark.parametrize(
    ("name", "kib"), [("llama-2-7b", 512), ("llama-2-70b", 320), ("llama-3-8b", 128)]
)
def test_kv_cache_of_a_token(name, kib):
    assert memory.kv_bytes_per_token(preset(name), Strategy(1, dtype="bfloat16")) == kib * 1024


# activations


def saved_bytes(
    family: str, strategy: Strategy, sequences: list[Sequence]
) -> tuple[int, BatchShape]:
    """Bytes of what autograd keeps of the backbone's forward pass, its weights and their casts
    aside.
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
    """The most bytes that torch's CPU allocator held during a call, and at its end, beyond those
    before it.
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


def wide_model(vocabulary: int) -> tuple[PolicyModel, ModelShape]:
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=384,
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


# stages


def planned(
    name: str, stage: str, hardware: Hardware = H100, devices: int = 8, **sections
) -> StagePlan:
    loaded, models = llama_recipe(**sections), StageModels(preset(name), preset(name))
    return plan_stage(loaded, stage, models, strategy_of(loaded, stage, devices), hardware)


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


# remedies


def remedied(plan: StagePlan, name: str, **sections):
    return find_remedy(llama_recipe(**sections), StageModels(preset(name), preset(name)), plan)


def test_sft_of_7b_on_eight_devices_of_80_gib_fits_with_zero_2():
    plan = planned(
        "7b", "sft", model={"base": "m", "dtype": "bfloat16"}, sft={"micro_batch_tokens": 2048}
    )
    remedy = remedied(
        plan, "7b", model={"base": "m", "dtype": "bfloat16"}, sft={"micro_batch_tokens": 2048}
    )
    assert not plan.fits
    assert [change.option for change in remedy.changes] == ["--set sft.zero_stage=2"]


@pytest.mark.parametrize("stage", MODEL_STAGES)
@pytest.mark.parametrize("name", ["smollm2-135m", "llama-3-8b", "70b"])
@pytest.mark.parametrize("gib", [4, 24, 80])
def test_a_remedy_fits_and_none_of_its_changes_can_be_left_out(stage, name, gib):
    plan = planned(name, stage, Hardware("gpu", gib * GIB, GIB))
    remedy = remedied(plan, name)
    if remedy is None:
        return
    assert remedy.plan.fits
    before, after = plan.strategy, remedy.plan.strategy
    models = StageModels(preset(name), preset(name))
    for field in vars(before):
        if getattr(before, field) != getattr(after, field):
            without = replace(after, **{field: getattr(before, field)})
            assert (
                not is_possible(stage, without)
                or not plan_stage(llama_recipe(), stage, models, without, plan.hardware).fits
            )


def test_the_options_of_a_remedy_make_the_recipe_fit():
    small = Hardware("gpu", 6 * GIB, GIB)
    plan = planned("smollm2-135m", "sft", small)
    remedy = remedied(plan, "smollm2-135m")
    settings = [change.option.removeprefix("--set ") for change in remedy.changes]
    assert settings and all(settings)
    loaded, models = (
        load_recipe("smollm2", settings),
        StageModels(preset("smollm2-135m"), preset("smollm2-135m")),
    )
    assert plan_stage(loaded, "sft", models, strategy_of(loaded, "sft", 8), small).fits


def test_70b_with_four_models_needs_what_training_does_not_offer():
    plan = planned("70b", "ppo")
    remedy = remedied(plan, "70b")
    assert -plan.spare > 2_000 * GIB
    assert any(not change.option for change in remedy.changes)
    assert remedy.plan.fits and remedy.plan.host > 0


# where shapes come from


def test_a_folder_and_its_config_give_the_same_shape(tiny_model):
    by_folder = find_models(llama_recipe(model={"base": str(tiny_model)}))
    by_file = find_models(llama_recipe(), config=tiny_model / "config.json")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert by_folder == by_file
    assert by_folder.policy.policy == sum(p.numel() for p in model.parameters())


def test_the_quickstart_has_the_shape_of_the_model_that_it_makes():
    from rlhf_core.quickstart.base_model import make_model, make_tokenizer

    found = find_models(load_recipe("quickstart"))
    assert found.policy.policy == sum(p.numel() for p in make_model(make_tokenizer()).parameters())


def test_a_gguf_package_has_the_shape_of_its_preset():
    found = find_models(load_recipe("smollm2")).policy
    assert replace(found, name="", source="") == replace(preset("smollm2-135m"), name="", source="")


def test_a_given_reward_model_has_its_own_shape(tiny_model):
    found = find_models(
        llama_recipe(model={"base": "meta-llama/Llama-2-7b", "reward": str(tiny_model)})
    )
    assert found.policy == preset("llama-2-7b")
    assert found.reward.hidden == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "of type None"),
        ('{"model_type": "gpt2"}', "'gpt2'"),
        ("[]", "holds list"),
        ("{", "cannot be read"),
        (
            '{"model_type": "llama", "num_attention_heads": 0, "hidden_size": 4}',
            "not a usable config",
        ),
    ],
)
def test_an_unusable_config_is_refused(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        find_models(llama_recipe(), config=tmp_path / "config.json")


def test_names_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="expected one of 13b, 70b, 7b"):
        find_models(llama_recipe(), name="8b")
    with pytest.raises(ConfigError, match="expected one of them"):
        find_models(llama_recipe(), name="7b", config=Path("config.json"))
    with pytest.raises(ConfigError, match="neither a folder nor a preset"):
        find_models(llama_recipe(model={"base": "org/unknown"}))


# the picture


@pytest.mark.parametrize("ending", [".svg", ".png"])
def test_the_picture_is_written(tmp_path, ending):
    file = tmp_path / f"plan{ending}"
    draw_plans([planned("7b", stage) for stage in MODEL_STAGES], file)
    assert file.read_bytes().startswith({".svg": b"<?xml", ".png": b"\x89PNG"}[ending])


def test_a_picture_of_another_kind_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"\.svg or \.png"):
        draw_plans([planned("7b", "sft")], tmp_path / "plan.pdf")
