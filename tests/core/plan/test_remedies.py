"""The smallest change that makes a stage fit."""

from dataclasses import replace

import pytest
from recipes import llama_recipe
from stage_plans import planned

from rlhf_core.config import load_recipe
from rlhf_core.plan.layout import MODEL_STAGES, strategy_of
from rlhf_core.plan.presets import preset
from rlhf_core.plan.remedies import find_remedy, is_possible
from rlhf_core.plan.stage_plan import StageModels, StagePlan
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import GIB, Hardware


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


def test_on_a_cpu_the_moments_go_to_disk_and_neither_sleep_nor_host_memory_helps():
    """SmolLM2 in float32 with four models: 2 x 8 bytes a weight less between the steps."""
    cpu = Hardware("cpu", 80 * GIB, GIB)
    whole = planned("smollm2-135m", "ppo", cpu, devices=1)
    asleep = planned("smollm2-135m", "ppo", cpu, devices=1, ppo={"sampling": {"sleep": True}})
    moved = planned(
        "smollm2-135m", "ppo", cpu, devices=1, ppo={"zero_stage": 1, "offload_optimizer": True}
    )
    kept = planned("smollm2-135m", "ppo", cpu, devices=1, ppo={"zero_stage": 1})
    assert asleep.peak == whole.peak and (moved.peak, moved.host) == (kept.peak, 0)
    least = {"micro_batch_tokens": 1, "sampling": {"kv_cache_mib": 1}}
    peak = planned("smollm2-135m", "ppo", cpu, devices=1, ppo=least).peak
    small = Hardware("cpu", int(peak - 0.5 * GIB), GIB)
    remedy = remedied(
        planned("smollm2-135m", "ppo", small, devices=1, ppo=least), "smollm2-135m", ppo=least
    )
    assert [change.option for change in remedy.changes] == ["--set ppo.offload_optimizer=disk"]
    assert load_recipe("smollm2", ["ppo.offload_optimizer=disk"]).ppo.offload_optimizer == "disk"
