"""Stages on two ranks over gloo, started by DeepSpeed's launcher.

They give the numbers of one rank, end together, and really resume.
"""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from stages import section_spec
from transformers import AutoConfig, AutoModelForCausalLM

from rlhf_core.config import (
    DPO,
    KTO,
    PPO,
    SFT,
    Distributed,
    DynamicSampling,
    Evaluate,
    LoRA,
    Reward,
    Rewards,
    Sampling,
)
from rlhf_core.errors import StageFailed
from rlhf_core.rundir import StageSpec, read_metrics, read_result
from tasks.execution import launcher, stage_process

WORKER = Path(__file__).parents[3] / "support" / "runs" / "run_stages.py"
TWO = Distributed(ranks=2)
SECTIONS = {
    # 96 rows: the last step has 6
    "sft": SFT(lr=3e-3, epochs=1, batch_size=18, checkpoint_every=2, micro_batch_tokens=128),
    "reward": Reward(lr=3e-3, epochs=1, batch_size=16, micro_batch_tokens=128),
    "dpo": DPO(lr=1e-3, epochs=1, batch_size=16, micro_batch_tokens=128),
    "kto": KTO(lr=1e-3, epochs=1, batch_size=16, micro_batch_tokens=128),
    "ppo": PPO(
        steps=2,
        rollout_batch=18,
        minibatches=2,
        epochs=2,
        policy_lr=1e-3,
        critic_lr=1e-3,
        checkpoint_every=1,
        micro_batch_tokens=128,
        sampling=Sampling(max_new_tokens=12, kv_cache_mib=32),
    ),
    "evaluate": Evaluate(
        max_prompts=13,
        max_heldout=16,
        micro_batch_tokens=128,
        best_of_n=2,
        independent_scorer="counted:score",
        sampling=Sampling(max_new_tokens=12, kv_cache_mib=32),
    ),
}
LOSSES = {
    "sft": ("sft/loss", "sft/grad_norm"),
    "reward": ("reward/loss", "reward/margin", "reward/train_accuracy", "reward/grad_norm"),
    "dpo": ("dpo/loss", "dpo/margin", "dpo/chosen_logratio", "dpo/grad_norm"),
    "kto": ("kto/loss", "kto/reference_kl", "kto/margin", "kto/up_logratio", "kto/grad_norm"),
    "ppo": (
        "ppo/policy_loss",
        "ppo/value_loss",
        "ppo/kl_per_response",
        "ppo/score_mean",
        "ppo/explained_variance",
        "ppo/response_tokens",
        "ppo/ratio_max",
        "ppo/ratio_min",
        "ppo/policy_grad_norm",
        "ppo/critic_grad_norm",
    ),
}


def ranks_spec(stage: str, inputs: dict[str, Path], *, ranks: int, **options) -> StageSpec:
    more = {"train": True} if stage in ("sft", "reward") else {}
    more |= {"ranks": ranks} if ranks > 1 else {}
    return section_spec(stage, SECTIONS[stage].model_copy(update=options), inputs, **more)


@pytest.fixture(scope="module")
def inputs(tiny_model, tiny_splits) -> dict[str, dict[str, Path]]:
    """Return the inputs of each stage; a test makes the reward model of ppo when it needs one."""
    splits = {path.stem: path for path in tiny_splits.glob("*.jsonl")}
    return {
        "sft": {"model": tiny_model}
        | {name: splits[name] for name in ("demonstrations_train", "demonstrations_heldout")},
        "reward": {"model": tiny_model}
        | {name: splits[name] for name in ("comparisons_train", "comparisons_heldout")},
        "dpo": {"policy": tiny_model}
        | {name: splits[name] for name in ("comparisons_train", "comparisons_heldout")},
        "kto": {"policy": tiny_model}
        | {name: splits[name] for name in ("feedback_train", "feedback_heldout")},
        "ppo": {"policy": tiny_model, "prompts_train": splits["prompts_train"]},
        "evaluate": {name: splits[name] for name in ("prompts_heldout", "demonstrations_heldout")},
    }


def together(specs: dict[Path, StageSpec], *, ranks: int, stop: bool = False) -> str:
    """Run several stages in one start of `ranks` ranks; return what they print.

    stop: end each one after its first checkpoint.
    """
    for folder, spec in specs.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "spec.json").write_text(spec.model_dump_json())
    start = [sys.executable]
    if ranks > 1:
        start = [
            part
            for part in launcher.command(next(iter(specs.values())), TWO)[:-1]
            if part != "--module"
        ]
    command = [*start, str(WORKER), *(["--stop"] if stop else []), *map(str, specs)]
    done = subprocess.run(
        command, env=stage_process.environment(ranks), capture_output=True, text=True
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-4000:]
    return done.stdout


def assert_same_losses(ours: Path, theirs: Path, stage: str) -> None:
    left, right = (
        [line["metrics"] for line in read_metrics(folder / "metrics.jsonl")]
        for folder in (ours, theirs)
    )
    assert len(left) == len(right) > 0
    for step, (one, other) in enumerate(zip(left, right, strict=True), start=1):
        for name in LOSSES[stage]:
            assert one[name] == pytest.approx(other[name], abs=1e-5, rel=1e-5), (
                f"{name} of step {step}"
            )
    one, other = read_result(ours).metrics, read_result(theirs).metrics
    assert one.keys() == other.keys()
    assert one == pytest.approx(other, abs=1e-5, rel=1e-5)


def weights(folder: Path) -> dict:
    return load_file(folder / "model" / "model.safetensors")


def alive(marker: str) -> list[int]:
    """Return the processes with the marker in their command line."""
    found = []
    for one in psutil.process_iter(["cmdline"]):
        if any(marker in part for part in one.info["cmdline"] or ()) and one.pid != os.getpid():
            found.append(one.pid)
    return found


@pytest.mark.slow
def test_two_ranks_at_zero_3_train_like_one_and_save_a_whole_model(inputs, tmp_path):
    stage_process.run_stage(ranks_spec("sft", inputs["sft"], ranks=1), tmp_path / "one")
    options = {"zero_stage": 3, "activation_checkpointing": True}
    stage_process.run_stage(
        ranks_spec("sft", inputs["sft"], ranks=2, **options), tmp_path / "two", distributed=TWO
    )
    assert_same_losses(tmp_path / "two", tmp_path / "one", "sft")
    one, two = weights(tmp_path / "one"), weights(tmp_path / "two")
    assert {name: tensor.shape for name, tensor in two.items()} == {
        name: tensor.shape for name, tensor in one.items()
    }
    assert max(float((two[name] - one[name]).abs().max()) for name in one) < 1e-4


@pytest.mark.slow
def test_one_rank_and_two_give_the_same_losses_at_every_zero_stage(inputs, tmp_path):
    specs = {
        tmp_path / "one" / stage: ranks_spec(stage, inputs[stage], ranks=1)
        for stage in ("sft", "reward", "dpo", "kto")
    }
    together(specs, ranks=1)
    inputs["ppo"]["reward"] = tmp_path / "one" / "reward" / "model"
    together({tmp_path / "one" / "ppo": ranks_spec("ppo", inputs["ppo"], ranks=1)}, ranks=1)
    for stage in LOSSES:
        specs = {
            tmp_path / f"zero{zero}" / stage: ranks_spec(
                stage, inputs[stage], ranks=2, zero_stage=zero
            )
            for zero in (0, 1, 2, 3)
        }
        if stage == "ppo":
            specs[tmp_path / "all3" / stage] = ranks_spec(
                stage, inputs[stage], ranks=2, zero_stage=3, frozen="sharded"
            )
        starts = [{folder: spec} for folder, spec in specs.items()] if stage == "ppo" else [specs]
        for start in starts:  # vLLM's end takes the process group with it
            together(start, ranks=2)
        for folder in specs:
            assert_same_losses(folder, tmp_path / "one" / stage, stage)


@pytest.mark.slow
def test_adapters_on_divided_weights_learn_as_on_whole_ones(inputs, tmp_path):
    """Each stage with LoRA at ZeRO 3, on one rank and on two, beside one rank at ZeRO 0.

    PPO has its reference by adapter-off.
    """
    lora = {"lora": LoRA(rank=4)}

    def spec(stage: str, ranks: int = 1, **options) -> StageSpec:
        options |= {"reference": "adapter-off"} if stage == "ppo" else {}
        return ranks_spec(stage, inputs[stage], ranks=ranks, **lora, **options)

    plain = {stage: tmp_path / "plain" / stage for stage in LOSSES}
    together({plain[stage]: spec(stage) for stage in LOSSES if stage != "ppo"}, ranks=1)
    inputs["ppo"]["reward"] = plain["reward"] / "model"
    together({plain["ppo"]: spec("ppo")}, ranks=1)
    for ranks in (1, 2):
        divided = {stage: tmp_path / str(ranks) / stage for stage in LOSSES}
        specs = {divided[stage]: spec(stage, ranks, zero_stage=3) for stage in LOSSES}
        ppo = {divided["ppo"]: specs.pop(divided["ppo"])}
        for start in (specs, ppo):  # vLLM's end takes the process group with it
            together(start, ranks=ranks)
        for stage, folder in divided.items():
            assert_same_losses(folder, plain[stage], stage)
            expected = weights(plain[stage])
            torch.testing.assert_close(weights(folder), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_stopped_adapter_on_divided_weights_goes_on_to_the_same_bytes_and_on_one_rank(
    inputs, tmp_path
):
    options = {"zero_stage": 3, "lora": LoRA(rank=4)}
    two, one = (ranks_spec("sft", inputs["sft"], ranks=ranks, **options) for ranks in (2, 1))
    together({tmp_path / "stopped": two}, ranks=2, stop=True)
    shutil.copytree(tmp_path / "stopped", tmp_path / "alone")
    together({tmp_path / "two": two, tmp_path / "stopped": two}, ranks=2)
    expected, found = (weights(tmp_path / name) for name in ("two", "stopped"))
    assert all(value.equal(expected[name]) for name, value in found.items())
    together({tmp_path / "alone": one}, ranks=1)
    assert_same_losses(tmp_path / "alone", tmp_path / "two", "sft")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [(2, 1), (1, 2)])
def test_a_stage_goes_on_with_another_number_of_ranks_at_every_zero_stage(
    inputs, tmp_path, first, then
):
    """SFT at every stage of ZeRO, and each time at the stage that follows."""
    together({tmp_path / "one": ranks_spec("sft", inputs["sft"], ranks=1)}, ranks=1)
    stopped = {
        tmp_path / f"zero{zero}": ranks_spec("sft", inputs["sft"], ranks=first, zero_stage=zero)
        for zero in (0, 1, 2, 3)
    }
    together(stopped, ranks=first, stop=True)
    resumed = {}
    for zero in (0, 1, 2, 3):
        for other in (zero, (zero + 1) % 4):
            folder = tmp_path / f"zero{zero}-{other}"
            shutil.copytree(tmp_path / f"zero{zero}", folder)
            resumed[folder] = ranks_spec("sft", inputs["sft"], ranks=then, zero_stage=other)
    said = together(resumed, ranks=then)
    assert said.count(f"of {first} rank(s) is divided anew among {then}") == 8 * then
    for folder in resumed:
        assert_same_losses(folder, tmp_path / "one", "sft")


@pytest.mark.slow
def test_a_stage_that_stopped_on_two_ranks_is_found_and_finished_on_one(inputs, tmp_path):
    together({tmp_path / "one": ranks_spec("sft", inputs["sft"], ranks=1)}, ranks=1)
    two = ranks_spec("sft", inputs["sft"], ranks=2, zero_stage=2)
    one = ranks_spec("sft", inputs["sft"], ranks=1)
    stopped, run_dir = (tmp_path / "runs" / f"sft-{spec.digest[:12]}" for spec in (two, one))
    together({stopped: two}, ranks=2, stop=True)
    done = stage_process.run_stage(one, run_dir)
    assert not done.cached and not (stopped / "result.json").exists()
    says = f"step-000002 of {stopped.name}, 2 ranks"
    assert done.result.environment["continued_from"] == says
    assert_same_losses(run_dir, tmp_path / "one", "sft")


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then", "zero"), [(2, 1, 1), (1, 2, 3)])
def test_ppo_goes_on_with_another_number_of_ranks(inputs, tmp_path, first, then, zero):
    together({tmp_path / "reward": ranks_spec("reward", inputs["reward"], ranks=1)}, ranks=1)
    given = inputs["ppo"] | {"reward": tmp_path / "reward" / "model"}
    together({tmp_path / "one": ranks_spec("ppo", given, ranks=1)}, ranks=1)
    folder = tmp_path / "run"
    stopped = ranks_spec("ppo", given, ranks=first, zero_stage=zero)
    together({folder: stopped}, ranks=first, stop=True)
    said = together({folder: ranks_spec("ppo", given, ranks=then, zero_stage=zero)}, ranks=then)
    assert f"of {first} rank(s) is divided anew among {then}" in said
    assert_same_losses(folder, tmp_path / "one", "ppo")


@pytest.mark.slow
def test_dynamic_sampling_takes_the_same_rounds_on_one_rank_and_on_two(inputs, tmp_path):
    """Half of the prompts give equal rewards: some rounds have fewer rows than a full batch."""
    options = {
        "steps": 3,
        "advantage": "grpo",
        "group_size": 3,
        "dynamic_sampling": DynamicSampling(max_rounds=4),
        "reward": Rewards(model_weight=0, functions=["counted:sometimes"]),
        "missing_eos_penalty": 0.0,
        "sampling": Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=32),
    }
    given = {name: inputs["ppo"][name] for name in ("policy", "prompts_train")}
    for ranks in (1, 2):
        together(
            {tmp_path / str(ranks): ranks_spec("ppo", given, ranks=ranks, **options)}, ranks=ranks
        )
    one, two = (
        [line["metrics"] for line in read_metrics(tmp_path / ranks / "metrics.jsonl")]
        for ranks in ("1", "2")
    )
    counts = ("sampling_rounds", "groups", "groups_dropped", "tokens_dropped")
    for ours, theirs in zip(one, two, strict=True):
        assert [ours[f"ppo/{name}"] for name in counts] == [
            theirs[f"ppo/{name}"] for name in counts
        ]
        for name in ("policy_loss", "score_mean_sampled", "policy_grad_norm"):
            assert ours[f"ppo/{name}"] == pytest.approx(theirs[f"ppo/{name}"], abs=1e-5, rel=1e-5)
    assert len(one) == 3 and max(step["ppo/sampling_rounds"] for step in one) > 1
    assert sum(step["ppo/groups_dropped"] for step in one) > 0


@pytest.mark.slow
def test_an_offloaded_optimizer_changes_no_loss(inputs, tmp_path):
    """DeepSpeed moves data between gradients and optimizer: on a CPU, within the same memory."""
    together({tmp_path / "one": ranks_spec("sft", inputs["sft"], ranks=1)}, ranks=1)
    off = {
        tmp_path / f"zero{zero}": ranks_spec(
            "sft", inputs["sft"], ranks=2, zero_stage=zero, offload_optimizer=True
        )
        for zero in (1, 2, 3)
    }
    together(off, ranks=2)
    for folder in off:
        assert (
            json.loads((folder / "deepspeed.json").read_text())["zero_optimization"][
                "offload_optimizer"
            ]["device"]
            == "cpu"
        )
        assert_same_losses(folder, tmp_path / "one", "sft")


@pytest.mark.slow
def test_bfloat16_products_move_losses_by_their_rounding_only(inputs, tmp_path):
    """Weights stay float32: one rank and two differ by at most bfloat16's 8 bits of a logit."""
    specs = {
        (stage, dtype): ranks_spec(stage, inputs[stage], ranks=1)
        for stage in ("sft", "reward")
        for dtype in ("float32", "bfloat16")
    }
    specs = {
        key: spec.model_copy(update={"config": spec.config | {"dtype": key[1]}})
        for key, spec in specs.items()
    }
    folders = {key: tmp_path / "-".join(key) for key in specs}
    together({folders[key]: spec for key, spec in specs.items()}, ranks=1)
    two = specs["sft", "bfloat16"]
    two = two.model_copy(
        update={"config": two.config | {"ranks": 2, "sft": two.config["sft"] | {"zero_stage": 2}}}
    )
    together({tmp_path / "two": two}, ranks=2)
    for stage in ("sft", "reward"):
        half, full = (
            [
                line["metrics"][f"{stage}/loss"]
                for line in read_metrics(folders[stage, dtype] / "metrics.jsonl")
            ]
            for dtype in ("bfloat16", "float32")
        )
        assert half != full and half == pytest.approx(full, rel=0.02)
    pair = (
        read_metrics(folder / "metrics.jsonl")
        for folder in (tmp_path / "two", folders["sft", "bfloat16"])
    )
    ours, theirs = ([line["metrics"]["sft/loss"] for line in lines] for lines in pair)
    assert ours == pytest.approx(theirs, rel=0.005)
    assert {tensor.dtype for tensor in weights(tmp_path / "two").values()} == {torch.float32}


@pytest.mark.slow
@pytest.mark.parametrize("zero", [0, 3])
def test_a_trace_of_two_ranks_counts_what_they_send(inputs, tmp_path, zero):
    """Ring all-reduce at ZeRO 0: 2 (n - 1) / n times 4 bytes per weight and optimizer step, n = 2.

    Gradients are float32. At ZeRO 3 gradients are scattered and weights gathered, in the passes
    without gradients too, and once for the sampler: each rank sends its half of the actor.
    """
    stage_process.run_stage(ranks_spec("reward", inputs["reward"], ranks=1), tmp_path / "reward")
    given = inputs["ppo"] | {"reward": tmp_path / "reward" / "model"}
    sampling = Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=32)
    spec = ranks_spec("ppo", given, ranks=2, zero_stage=zero, sampling=sampling)
    spec = spec.model_copy(update={"stage": "trace", "config": spec.config | {"rows": 2}})
    stage_process.run_stage(spec, tmp_path / "two", distributed=TWO)
    flow = json.loads((tmp_path / "two" / "trace.json").read_text())
    sent = {step["name"]: step["bytes_between_ranks"] for step in flow["steps"]}
    actor, critic = (
        sum(t.numel() for t in load_file(path / "model.safetensors").values())
        for path in (given["policy"], given["reward"])
    )
    steps = SECTIONS["ppo"].epochs * SECTIONS["ppo"].minibatches
    gradients = 4 * (actor + critic) * steps
    assert flow["ranks"] == 2 and flow["bytes_between_ranks"] == sum(sent.values())
    gathered = 4 * (actor + critic) // 2
    assert sent["sync"] == (4 * actor // 2 if zero == 3 else 0)
    assert (sent["experience"] >= gathered) == (zero == 3)
    assert gradients <= sent["update"] <= (1.01 if zero == 0 else 1.2) * gradients


@pytest.mark.slow
def test_two_ranks_that_share_out_every_model_learn_and_evaluate_like_one(
    inputs, tmp_path, monkeypatch
):
    """No rank holds the whole reference, reward model or evaluated model."""
    trained = {
        tmp_path / stage: ranks_spec(stage, inputs[stage], ranks=1) for stage in ("sft", "reward")
    }
    together(trained, ranks=1)
    models = {
        name: tmp_path / stage / "model"
        for name, stage in (("policy", "sft"), ("reward", "reward"))
    }
    given = {
        "ppo": inputs["ppo"] | models,
        "evaluate": inputs["evaluate"] | models | {"sft": inputs["sft"]["model"]},
    }
    sampling = {"sampling": Sampling(engine="transformers", max_new_tokens=12, kv_cache_mib=32)}
    options = {"ppo": {"zero_stage": 3, "frozen": "sharded"}, "evaluate": {"frozen": "sharded"}}
    ones = {
        tmp_path / "one" / name: ranks_spec(name, given[name], ranks=1, **sampling)
        for name in given
    }
    twos = {
        tmp_path / "two" / name: ranks_spec(name, given[name], ranks=2, **sampling, **options[name])
        for name in given
    }
    for specs, ranks in ((ones, 1), (twos, 2)):
        monkeypatch.setenv("SCORER_CALLS", str(tmp_path / f"calls-{ranks}"))
        together(specs, ranks=ranks)
    calls = [(tmp_path / f"calls-{ranks}").read_text() for ranks in (1, 2)]
    assert calls[0] == calls[1] and "rank 1" not in calls[1]  # one rank asks others
    assert_same_losses(tmp_path / "two" / "ppo", tmp_path / "one" / "ppo", "ppo")
    one, two = (read_result(tmp_path / name / "evaluate") for name in ("one", "two"))
    assert (
        one.metrics == pytest.approx(two.metrics, abs=1e-5, rel=1e-5)
        and one.files.keys() == two.files.keys()
    )
    tables = [
        json.loads((tmp_path / name / "evaluate" / "samples.table.json").read_text())["data"]
        for name in ("one", "two")
    ]
    assert [row[:2] for row in tables[0]] == [row[:2] for row in tables[1]]


def killed_after(spec: StageSpec, folder: Path, steps: int, victim: str) -> None:
    """Run until `steps` are logged, kill one rank with -9, and wait for the stage to end."""

    def watch() -> None:
        if len(read_metrics(folder / "metrics.jsonl")) < steps:
            return
        for pid in alive(str(folder / "spec.json")):
            if psutil.Process(pid).environ().get("RANK") == victim:
                os.kill(pid, signal.SIGKILL)

    with pytest.raises(StageFailed):
        stage_process.run_stage(spec, folder, distributed=TWO, watch=watch)


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "zero"), [("sft", 3), ("sft", 2), ("ppo", 3)])
def test_a_killed_rank_ends_all_and_the_stage_resumes_bit_for_bit(inputs, tmp_path, stage, zero):
    if stage == "ppo":
        stage_process.run_stage(
            ranks_spec("reward", inputs["reward"], ranks=1), tmp_path / "reward"
        )
        inputs["ppo"]["reward"] = tmp_path / "reward" / "model"
    # it must be killed before it ends by itself
    longer = {"epochs": 10} if stage == "sft" else {}
    spec = ranks_spec(stage, inputs[stage], ranks=2, zero_stage=zero, **longer)
    stage_process.run_stage(spec, tmp_path / "whole", distributed=TWO)
    killed_after(spec, tmp_path / "killed", 3 if stage == "sft" else 1, victim="1")
    assert not alive(str(tmp_path / "killed" / "spec.json"))
    assert list((tmp_path / "killed" / "checkpoints").glob("step-*/state-1.safetensors"))
    stage_process.run_stage(spec, tmp_path / "killed", distributed=TWO)
    one, two = weights(tmp_path / "whole"), weights(tmp_path / "killed")
    assert all(one[name].equal(two[name]) for name in one)
    steps = [line["step"] for line in read_metrics(tmp_path / "killed" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_hosts_of_a_hostfile_started_by_hand_train_together(inputs, tmp_path):
    """Two hosts of one slot each; both are this machine."""
    (tmp_path / "hosts").write_text("host-a slots=1\nhost-b slots=1\n")
    port = launcher._free_port()
    hosts = Distributed(
        hostfile=str(tmp_path / "hosts"),
        launcher="by_hand",
        master_addr="127.0.0.1",
        master_port=port,
    )
    spec, folder = ranks_spec("sft", inputs["sft"], ranks=2, zero_stage=2), tmp_path / "two"
    other = None

    def watch() -> None:
        nonlocal other
        if other is None:
            rest = [spec.stage, str(folder / "spec.json"), str(folder)]
            command = [*launcher.commands_for_other_hosts(spec, hosts)["host-b"], *rest]
            other = subprocess.Popen(
                command,
                env=stage_process.environment(),
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )

    stage_process.run_stage(spec, folder, distributed=hosts, watch=watch)
    assert other.wait(60) == 0
    stage_process.run_stage(ranks_spec("sft", inputs["sft"], ranks=1), tmp_path / "one")
    assert_same_losses(folder, tmp_path / "one", "sft")


def test_a_spec_of_several_ranks_is_not_run_by_one(inputs, tmp_path):
    spec = ranks_spec("sft", inputs["sft"], ranks=2)
    with pytest.raises(StageFailed, match=r"runs as one of 1 ranks .* its spec says 2"):
        stage_process.run_stage(spec, tmp_path / "run", command=(sys.executable, "-m", "rlhf_core"))


def test_a_launchers_variables_do_not_reach_a_stage_that_is_alone(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "3")
    assert not {"WORLD_SIZE", "RANK"} & stage_process.environment().keys()


def test_no_password_reaches_the_runner_that_writes_variables_into_command_lines(monkeypatch):
    from deepspeed.launcher.runner import EXPORT_ENVS

    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "canary")
    assert "MLFLOW" in EXPORT_ENVS and "MLFLOW_TRACKING_PASSWORD" not in stage_process.environment()


def test_the_launch_command_names_ranks_or_hosts(tmp_path):
    (tmp_path / "hosts").write_text("a slots=2\nb slots=2\n")
    spec = StageSpec(stage="sft", seed=1, config={"ranks": 2}, inputs={}, code="")
    alone = launcher.command(spec, TWO)
    assert alone[2:4] == ("-m", "deepspeed.launcher.launch") and alone[-1] == "rlhf_core"
    over_ssh = launcher.command(
        spec, Distributed(hostfile=str(tmp_path / "hosts"), launcher="pdsh")
    )
    expected = (
        "-m",
        "deepspeed.launcher.runner",
        f"--hostfile={tmp_path / 'hosts'}",
        "--launcher=pdsh",
        "--master_port=29500",
    )
    assert over_ssh[2:7] == expected


@pytest.mark.slow
def test_two_ranks_that_share_one_sampler_sample_from_the_policy_after_every_sync(
    tiny_model, inputs, tmp_path
):
    """With vLLM's tensor parallelism each rank holds a head; both answer every prompt together."""
    shutil.copytree(tiny_model, wide := tmp_path / "wide")
    torch.manual_seed(0)
    config = AutoConfig.from_pretrained(
        tiny_model, hidden_size=128, num_attention_heads=2, num_key_value_heads=2
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(wide)
    stage_process.run_stage(
        ranks_spec("reward", inputs["reward"] | {"model": wide}, ranks=1), tmp_path / "reward"
    )
    given = inputs["ppo"] | {"policy": wide, "reward": tmp_path / "reward" / "model"}
    shared = SECTIONS["ppo"].sampling.model_copy(update={"tensor_parallel": 2})
    blocks = set()

    def note_blocks() -> None:
        if read_metrics(tmp_path / "two" / "metrics.jsonl"):
            for one in psutil.Process().children(recursive=True):
                with contextlib.suppress(OSError):
                    maps = Path(f"/proc/{one.pid}/maps").read_text()
                    blocks.update(re.findall(r"/dev/shm/psm_\w+.*", maps))

    stage_process.run_stage(
        ranks_spec("ppo", given, ranks=2, sampling=shared),
        tmp_path / "two",
        distributed=TWO,
        watch=note_blocks,
    )
    # of messages between the ranks; without names they end with the ranks, also when killed
    assert blocks and all(one.endswith(" (deleted)") for one in blocks)
    steps = [line["metrics"] for line in read_metrics(tmp_path / "two" / "metrics.jsonl")]
    assert len(steps) == SECTIONS["ppo"].steps
    assert steps[0]["ppo/policy_grad_norm"] > 0
    # after the sync too: both halves are new
    assert max(step["ppo/sampler_logprob_diff_max"] for step in steps) < 1e-4


@pytest.mark.slow
def test_two_ranks_at_zero_3_with_a_served_sampler_train_like_one_rank_with_its_own(
    inputs, tmp_path
):
    stage_process.run_stage(ranks_spec("reward", inputs["reward"], ranks=1), tmp_path / "reward")
    given = inputs["ppo"] | {"reward": tmp_path / "reward" / "model"}
    stage_process.run_stage(ranks_spec("ppo", given, ranks=1), tmp_path / "one")
    served = SECTIONS["ppo"].sampling.model_copy(update={"own_devices": 1})
    stage_process.run_stage(
        ranks_spec("ppo", given, ranks=2, zero_stage=3, sampling=served),
        tmp_path / "two",
        distributed=TWO,
    )
    assert_same_losses(tmp_path / "two", tmp_path / "one", "ppo")
    steps = [line["metrics"] for line in read_metrics(tmp_path / "two" / "metrics.jsonl")]
    assert max(step["ppo/sampler_logprob_diff_max"] for step in steps) < 1e-4


@pytest.mark.slow
def test_two_ranks_with_rollouts_ahead_train_like_one_and_go_on_where_one_rank_stopped(
    inputs, tmp_path
):
    """Rank 0 alone asks the sampler; the responses that wait are those of the stopped rank."""
    together({tmp_path / "reward": ranks_spec("reward", inputs["reward"], ranks=1)}, ranks=1)
    given = inputs["ppo"] | {"reward": tmp_path / "reward" / "model"}
    served = SECTIONS["ppo"].sampling.model_copy(update={"own_devices": 1})
    ahead = {"steps": 3, "max_rollout_age": 1, "importance_cap": 2.0, "sampling": served}
    one = ranks_spec("ppo", given, ranks=1, **ahead)
    two = ranks_spec("ppo", given, ranks=2, zero_stage=2, **ahead)
    together({tmp_path / "one": one}, ranks=1)
    together({tmp_path / "two": two}, ranks=2)
    assert_same_losses(tmp_path / "two", tmp_path / "one", "ppo")
    steps = [line["metrics"] for line in read_metrics(tmp_path / "two" / "metrics.jsonl")]
    assert [step["ppo/rollout_age"] for step in steps] == [0, 1, 1]
    together({tmp_path / "on": one}, ranks=1, stop=True)
    assert "is divided anew among 2" in together({tmp_path / "on": two}, ranks=2)
    assert_same_losses(tmp_path / "on", tmp_path / "one", "ppo")
