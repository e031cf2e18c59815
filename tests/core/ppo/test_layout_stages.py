"""Real stage processes with low-rank adapters, one after the other.

They leave plain models behind, and a killed one resumes.
"""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file
from stages import assert_equal_weights, finish, kill_after_steps, section_spec, spec_of, splits_of

from rlhf_core.config import PPO, SFT, LoRA, Reward, Sampling
from rlhf_core.rundir import StageResult, StageSpec, read_metrics

LORA = LoRA(rank=4)
SFT_TINY = SFT(lr=1e-2, batch_size=16, checkpoint_every=2, lora=LORA)
REWARD_TINY = Reward(lr=1e-2, epochs=4, batch_size=16, checkpoint_every=4, lora=LORA)
PPO_TINY = PPO(
    steps=3,
    rollout_batch=16,
    minibatches=2,
    epochs=2,
    policy_lr=1e-2,
    critic_lr=1e-2,
    lora=LORA,
    checkpoint_every=1,
    sampling=Sampling(max_new_tokens=12, kv_cache_mib=32),
)


@pytest.fixture(scope="module")
def sft(tiny_model, tiny_splits, tmp_path_factory) -> StageResult:
    inputs = {"model": tiny_model} | splits_of(
        tiny_splits, "demonstrations_train", "demonstrations_heldout"
    )
    return finish(
        section_spec("sft", SFT_TINY, inputs, train=True), tmp_path_factory.mktemp("sft") / "run"
    )


@pytest.fixture(scope="module")
def reward(sft, tiny_splits, tmp_path_factory) -> StageResult:
    inputs = {"model": sft.outputs["model"].path} | splits_of(
        tiny_splits, "comparisons_train", "comparisons_heldout"
    )
    return finish(
        section_spec("reward", REWARD_TINY, inputs, train=True),
        tmp_path_factory.mktemp("reward") / "run",
    )


def ppo_spec(sft: StageResult, reward: StageResult, splits: Path, config: PPO) -> StageSpec:
    inputs = {"policy": sft.outputs["model"].path, "reward": reward.outputs["model"].path}
    if config.reward_trunk == "reference":
        inputs["reward_adapter"] = reward.outputs["adapter"].path
    return section_spec("ppo", config, inputs | splits_of(splits, "prompts_train"))


def check_plain(result: StageResult, like: Path) -> None:
    """The output is a folder of transformers alone."""
    model = result.outputs["model"].path
    assert (
        load_file(model / "model.safetensors").keys()
        == load_file(like / "model.safetensors").keys()
    )
    assert not list(model.glob("adapter*"))


@pytest.mark.slow
def test_an_sft_with_adapters_learns_is_measured_as_saved_and_resumes(
    sft, tiny_model, tiny_splits, tmp_path
):
    check_plain(sft, tiny_model)
    assert sft.metrics["sft/heldout_loss"] < sft.metrics["sft/heldout_loss_before"]
    inputs = {"model": tiny_model} | splits_of(
        tiny_splits, "demonstrations_train", "demonstrations_heldout"
    )
    spec = section_spec("sft", SFT_TINY, inputs, train=True)
    kill_after_steps(spec, tmp_path / "run", 5)
    checkpoint = sorted((tmp_path / "run" / "checkpoints").glob("step-*"))[-1]
    weights = [
        name for name in load_file(checkpoint / "state.safetensors") if name.startswith("weights/")
    ]
    assert weights and all(".lora_" in name for name in weights)
    assert_equal_weights(sft, finish(spec, tmp_path / "run"))
    given = spec.model_copy(update={"config": spec.config | {"train": False}})
    given = spec_of("sft", given.config, inputs | {"given": sft.outputs["model"].path})
    assert (
        finish(given, tmp_path / "given").metrics["sft/heldout_loss"]
        == sft.metrics["sft/heldout_loss"]
    )


@pytest.mark.slow
def test_a_reward_model_keeps_its_adapter_with_where_it_comes_from(sft, reward):
    origin = json.loads((reward.outputs["adapter"].path / "origin.json").read_text())
    assert origin == {"base": sft.outputs["model"].digest, "merged": reward.outputs["model"].digest}
    assert not list(reward.outputs["model"].path.glob("adapter*"))


ONE_TRUNK = {
    "reference": "adapter-off",
    "reward_trunk": "reference",
    "critic": "shared",
    "critic_warmup_steps": 1,
}


@pytest.mark.slow
@pytest.mark.parametrize("options", [{}, ONE_TRUNK], ids=("four models", "one trunk"))
def test_ppo_with_adapters_samples_what_it_trains_and_resumes(
    sft, reward, tiny_model, tiny_splits, tmp_path, options
):
    spec = ppo_spec(sft, reward, tiny_splits, PPO(**PPO_TINY.model_dump() | options))
    whole = finish(spec, tmp_path / "whole")
    check_plain(whole, tiny_model)
    steps = [line["metrics"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert max(step["ppo/sampler_logprob_diff_max"] for step in steps) < 1e-3
    assert (
        steps[0]["ppo/kl_per_token"] == pytest.approx(0, abs=1e-6)
        and abs(steps[-1]["ppo/kl_per_token"]) > 1e-3
    )
    kill_after_steps(spec, tmp_path / "killed", 2)
    assert_equal_weights(whole, finish(spec, tmp_path / "killed"))


@pytest.mark.slow
def test_a_trace_of_one_trunk_names_its_roles(sft, reward, tiny_splits, tmp_path):
    spec = ppo_spec(sft, reward, tiny_splits, PPO(**PPO_TINY.model_dump() | ONE_TRUNK))
    traced = finish(
        spec.model_copy(update={"stage": "trace", "config": spec.config | {"rows": 2}}),
        tmp_path / "run",
    )
    flow = json.loads((tmp_path / "run" / traced.files["trace"]).read_text())
    asked = next(step for step in flow["steps"] if step["name"] == "experience")["forward_passes"]
    assert set(asked) == {"actor", "reference", "reward"} and len(set(asked.values())) == 1
    assert flow["ratio_before_max_distance_from_1"] == 0.0 and len(flow["notes"]) >= 4
