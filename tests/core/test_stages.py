"""The learning stages on a tiny real model: DeepSpeed steps, vLLM generates, a killed stage resumes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
)

from rlhf_core.config import PPO, SFT, Evaluate, Reward, Sampling
from rlhf_core.digest import code_digest
from rlhf_core.rundir import Artifact, StageResult, StageSpec, read_metrics, read_result

SFT_TINY = SFT(lr=3e-3, epochs=2, batch_size=16, checkpoint_every=2)
REWARD_TINY = Reward(lr=3e-3, epochs=4, batch_size=16, checkpoint_every=4)
SAMPLING = Sampling(max_new_tokens=12, kv_cache_mib=32)
PPO_TINY = PPO(
    steps=4, rollout_batch=16, minibatches=2, epochs=2, policy_lr=1e-3, critic_lr=1e-3, sampling=SAMPLING, checkpoint_every=1
)


def spec_of(stage: str, config: dict, inputs: dict[str, Path]) -> StageSpec:
    artifacts = {name: Artifact.of(path) for name, path in inputs.items()}
    return StageSpec(stage=stage, seed=1, config=config, inputs=artifacts, code=code_digest())


def start(spec: StageSpec, folder: Path) -> subprocess.Popen:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "rlhf_core", spec.stage, str(folder / "spec.json"), str(folder)]
    log = (folder / "stage.log").open("a")
    environment = os.environ | {"DS_ACCELERATOR": "cpu"}
    return subprocess.Popen(command, stdout=log, stderr=log, env=environment, start_new_session=True)


def finish(spec: StageSpec, folder: Path) -> StageResult:
    code = start(spec, folder).wait()
    assert code == 0, (folder / "stage.log").read_text()[-3000:]
    return read_result(folder)


def kill_after_steps(spec: StageSpec, folder: Path, steps: int) -> None:
    process = start(spec, folder)
    deadline = time.monotonic() + 120
    while len(read_metrics(folder / "metrics.jsonl")) < steps:
        assert process.poll() is None, (folder / "stage.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def weights(result: StageResult) -> dict:
    return load_file(result.outputs["model"].path / "model.safetensors")


def assert_equal_weights(left: StageResult, right: StageResult) -> None:
    ours, theirs = weights(left), weights(right)
    assert ours.keys() == theirs.keys()
    assert all(ours[name].equal(theirs[name]) for name in ours)


@pytest.fixture(scope="session")
def sft_spec(tiny_model, tiny_splits) -> StageSpec:
    inputs = {"model": tiny_model} | {n: tiny_splits / f"{n}.jsonl" for n in ("demonstrations_train", "demonstrations_heldout")}
    return spec_of("sft", {"sft": SFT_TINY.model_dump(exclude={"gate"}), "dtype": "float32", "train": True}, inputs)


@pytest.fixture(scope="session")
def sft(sft_spec, tmp_path_factory) -> StageResult:
    return finish(sft_spec, tmp_path_factory.mktemp("sft") / "run")


@pytest.fixture(scope="session")
def reward(sft, tiny_splits, tmp_path_factory) -> StageResult:
    inputs = {n: tiny_splits / f"{n}.jsonl" for n in ("comparisons_train", "comparisons_heldout")}
    inputs["model"] = sft.outputs["model"].path
    config = {"reward": REWARD_TINY.model_dump(exclude={"gate"}), "dtype": "float32", "train": True}
    return finish(spec_of("reward", config, inputs), tmp_path_factory.mktemp("reward") / "run")


def ppo_spec(sft: StageResult, reward: StageResult, splits: Path, config: PPO = PPO_TINY) -> StageSpec:
    inputs = {"policy": sft.outputs["model"].path, "reward": reward.outputs["model"].path}
    inputs["prompts_train"] = splits / "prompts_train.jsonl"
    return spec_of("ppo", {"ppo": config.model_dump(exclude={"gate"}), "dtype": "float32"}, inputs)


@pytest.fixture(scope="session")
def ppo(sft, reward, tiny_splits, tmp_path_factory) -> StageResult:
    return finish(ppo_spec(sft, reward, tiny_splits), tmp_path_factory.mktemp("ppo") / "run")


def test_sft_lowers_the_heldout_loss_and_saves_a_loadable_model(sft):
    assert sft.metrics["sft/heldout_loss"] < sft.metrics["sft/heldout_loss_before"]
    AutoModelForCausalLM.from_pretrained(sft.outputs["model"].path)


def test_reward_model_saves_a_one_label_classifier(reward):
    model = AutoModelForSequenceClassification.from_pretrained(reward.outputs["model"].path)
    assert model.config.num_labels == 1
    assert reward.counts["reward/accuracy"] == 64


def test_given_models_are_measured_not_trained(sft, reward, tiny_model, tiny_splits, tmp_path):
    """A given SFT or reward model gets the numbers that its gate needs, equal to those of the stage that made it."""
    folder = {"sft": sft.outputs["model"].path, "reward": reward.outputs["model"].path}
    inputs = {"model": tiny_model, "given": folder["sft"]}
    inputs |= {n: tiny_splits / f"{n}.jsonl" for n in ("demonstrations_train", "demonstrations_heldout")}
    config = {"sft": SFT_TINY.model_dump(exclude={"gate"}), "dtype": "float32", "train": False}
    measured = finish(spec_of("sft", config, inputs), tmp_path / "sft")
    assert measured.outputs == {}
    assert measured.metrics["sft/heldout_loss"] == pytest.approx(sft.metrics["sft/heldout_loss"], rel=1e-5)
    inputs = {"model": folder["sft"], "given": folder["reward"]}
    inputs |= {n: tiny_splits / f"{n}.jsonl" for n in ("comparisons_train", "comparisons_heldout")}
    config = {"reward": REWARD_TINY.model_dump(exclude={"gate"}), "dtype": "float32", "train": False}
    measured = finish(spec_of("reward", config, inputs), tmp_path / "reward")
    assert measured.metrics["reward/accuracy"] == reward.metrics["reward/accuracy"]


def test_sampler_and_trainer_agree_on_log_probabilities_after_every_sync(ppo):
    lines = read_metrics(ppo.outputs["model"].path.parent / "metrics.jsonl")
    assert len(lines) == PPO_TINY.steps
    assert max(line["metrics"]["ppo/sampler_logprob_diff_max"] for line in lines) < 1e-3


def test_first_step_has_no_kl_because_the_actor_is_the_reference(ppo):
    first, *_, last = read_metrics(ppo.outputs["model"].path.parent / "metrics.jsonl")
    assert first["metrics"]["ppo/kl_per_token"] == pytest.approx(0, abs=1e-6)
    assert last["metrics"]["ppo/kl_per_token"] != 0


def test_killed_sft_resumes_to_the_same_weights(sft, sft_spec, tmp_path):
    kill_after_steps(sft_spec, tmp_path / "run", 5)
    resumed = finish(sft_spec, tmp_path / "run")
    assert_equal_weights(sft, resumed)
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))


def test_killed_sft_resumes_to_the_same_weights_under_zero_2(sft, sft_spec, tmp_path):
    sharded = {"sft": SFT_TINY.model_copy(update={"zero_stage": 2}).model_dump(exclude={"gate"})}
    spec = sft_spec.model_copy(update={"config": sft_spec.config | sharded})
    whole = finish(spec, tmp_path / "whole")
    kill_after_steps(spec, tmp_path / "killed", 5)
    assert_equal_weights(whole, finish(spec, tmp_path / "killed"))
    assert whole.metrics["sft/heldout_loss"] == pytest.approx(sft.metrics["sft/heldout_loss"], abs=1e-5)


def test_killed_ppo_resumes_to_the_same_weights(sft, reward, ppo, tiny_splits, tmp_path):
    spec = ppo_spec(sft, reward, tiny_splits)
    kill_after_steps(spec, tmp_path / "run", 2)
    assert_equal_weights(ppo, finish(spec, tmp_path / "run"))


def test_spent_kl_budget_stops_ppo_and_keeps_the_last_checkpoint(sft, reward, tiny_splits, tmp_path):
    config = PPO_TINY.model_copy(update={"kl_budget": 0.05, "steps": 50, "policy_lr": 3e-3, "beta": 0.0})
    process = start(ppo_spec(sft, reward, tiny_splits, config), tmp_path / "run")
    assert process.wait() == 2
    assert "the budget is 0.05" in (tmp_path / "run" / "failure.json").read_text()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert read_result(tmp_path / "run") is None


def test_champion_of_another_architecture_is_compared_and_of_another_tokenizer_refused(
    sft, reward, tiny_model, tiny_splits, tmp_path
):
    deeper = LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model, num_hidden_layers=3))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    deeper.save_pretrained(tmp_path / "deeper")
    tokenizer.save_pretrained(tmp_path / "deeper")
    inputs = {n: tiny_splits / f"{n}.jsonl" for n in ("prompts_heldout", "demonstrations_heldout")}
    inputs |= {"policy": sft.outputs["model"].path, "sft": sft.outputs["model"].path}
    inputs |= {"reward": reward.outputs["model"].path, "champion": tmp_path / "deeper"}
    config = {"evaluate": Evaluate(sampling=SAMPLING, max_prompts=20).model_dump(exclude={"gate"}), "dtype": "float32"}
    result = finish(spec_of("evaluate", config, inputs), tmp_path / "run")
    assert result.counts["eval/win_rate_vs_champion"] == 20
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "deeper")
    assert start(spec_of("evaluate", config, inputs), tmp_path / "refused").wait() == 2
    assert "another tokenizer" in (tmp_path / "refused" / "failure.json").read_text()


def test_evaluation_of_a_model_against_itself_is_a_tie(sft, reward, tiny_splits, tmp_path):
    same = sft.outputs["model"].path
    inputs = {"policy": same, "sft": same, "reward": reward.outputs["model"].path}
    inputs |= {n: tiny_splits / f"{n}.jsonl" for n in ("prompts_heldout", "demonstrations_heldout")}
    config = Evaluate(sampling=SAMPLING, max_prompts=60).model_dump(exclude={"gate"})
    result = finish(spec_of("evaluate", {"evaluate": config, "dtype": "float32"}, inputs), tmp_path / "run")
    assert result.metrics["eval/win_rate"] == 0.5
    assert result.metrics["eval/kl_per_response"] == 0
    assert result.metrics["eval/alignment_tax"] == 0
    assert result.counts["eval/win_rate"] == 60
