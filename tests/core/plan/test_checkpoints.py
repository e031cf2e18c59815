"""The size of a checkpoint that `rlhf plan` states is that of a real one."""

import json

import pytest
from recipes import tiny_recipe

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import PPO, SFT, LoRA
from rlhf_core.engine.checkpoint import Checkpoint, save_checkpoint
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.modeling.lora import with_adapter
from rlhf_core.modeling.models import load_policy, load_scalar
from rlhf_core.plan.checkpoints import checkpoint_plan
from rlhf_core.plan.report import checkpoint_text
from rlhf_core.plan.shape import shape_of
from rlhf_core.plan.stage_plan import CheckpointPlan, StageModels
from rlhf_core.plan.stages import plan_stage
from rlhf_core.plan.strategy import Hardware, Strategy
from rlhf_core.ppo.state import LoopState, checkpoint_of


@pytest.fixture(scope="module")
def models(tiny_model) -> StageModels:
    config = json.loads((tiny_model / "config.json").read_text())
    shape = shape_of(config, "tiny", "tiny")
    return StageModels(shape, shape)


def stepped(model, config) -> DeepSpeedEngine:
    """Return an engine after a step, which has AdamW's state."""
    engine = DeepSpeedEngine(model, config, dtype="float32")
    batch = collate([Sequence([7, 9], [8, 10, 11])], 0)
    engine.backward(engine(batch).square().mean())
    engine.step(1e-3)
    return engine


def size_on_disk(folder, checkpoint: Checkpoint) -> int:
    save_checkpoint(folder, checkpoint, keep=1)
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@pytest.mark.parametrize("zero", [0, 2, 3])
def test_the_stated_size_of_sft_is_the_real_one(tiny_model, models, tmp_path, zero):
    engine = stepped(load_policy(tiny_model), SFT(zero_stage=zero))
    real = size_on_disk(tmp_path, Checkpoint(1, engine.state(), {}, {"": engine.layout()}))
    planned = checkpoint_plan(tiny_recipe(), "sft", models, "cpu")
    assert planned.size == pytest.approx(real, rel=0.1)


def test_the_stated_size_of_adapters_is_the_real_one(tiny_model, models, tmp_path):
    lora = LoRA(rank=64)
    model = with_adapter(load_policy(tiny_model), lora, seed=1)
    engine = stepped(model, SFT(lora=lora))
    real = size_on_disk(tmp_path, Checkpoint(1, engine.state(), {}, {"": engine.layout()}))
    planned = checkpoint_plan(tiny_recipe(sft={"lora": lora}), "sft", models, "cpu")
    assert planned.size == pytest.approx(real, rel=0.1)


def test_the_stated_size_of_ppo_is_the_real_one(tiny_model, models, tmp_path):
    config = PPO()
    engines = {
        "actor": stepped(load_policy(tiny_model), config),
        "critic": stepped(load_scalar(tiny_model, new_head=True), config),
    }
    real = size_on_disk(tmp_path, checkpoint_of(1, engines, LoopState.first(config)))
    planned = checkpoint_plan(tiny_recipe(), "ppo", models, "cpu")
    assert planned.size == pytest.approx(real, rel=0.1)


def test_a_tied_weight_is_saved_once(tiny_model):
    engine = stepped(load_policy(tiny_model), SFT())
    saved = [name for name in engine.state() if name.startswith("weights/")]
    assert len(saved) == len(list(engine.module.parameters()))


def test_the_copy_beside_the_steps_counts_on_a_cpu(models):
    strategy, cpu = Strategy(1024), Hardware("cpu", 2**40, 0)
    recipes = [tiny_recipe(sft={"async_checkpoints": on}) for on in (False, True)]
    off, on = (plan_stage(recipe, "sft", models, strategy, cpu) for recipe in recipes)
    assert on.peak - off.peak == on.checkpoints.size == 12 * models.policy.policy
    assert plan_stage(tiny_recipe(), "evaluate", models, strategy, cpu).checkpoints is None


def test_the_text_states_size_number_and_copy():
    plan = CheckpointPlan(size=3 * 2**30, kept=2, copied=False)
    text = "Checkpoints: 9.00 GiB on disk: 2 kept and one being written, 3.00 GiB each"
    assert checkpoint_text(plan) == f"{text}."
    copied = CheckpointPlan(3 * 2**30, 2, copied=True)
    assert checkpoint_text(copied) == f"{text}; that one is in main memory too."
