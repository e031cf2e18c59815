"""A traced PPO batch on a tiny real model.

Its numbers check out by hand, and are those of the PPO stage.
"""

import dataclasses
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from plain import FixedEngine

from rlhf_core.batching.batch import Batch, Sequence, collate, order
from rlhf_core.batching.microbatches import microbatches
from rlhf_core.config import PPO, Sampling
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.digest import code_digest
from rlhf_core.modeling.models import load_policy, load_scalar, save_model
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores
from rlhf_core.ppo.estimators import Estimates
from rlhf_core.ppo.experience import Experience, ExperienceRows
from rlhf_core.ppo.rewards import RewardModelScores, ShapedRewards
from rlhf_core.ppo.scoring import ModelOutputs
from rlhf_core.ppo.trace.meanings import AXES, QUANTITIES, TENSORS
from rlhf_core.ppo.trace.observe import observed
from rlhf_core.ppo.trace.report import to_json
from rlhf_core.ppo.trace.stage import actor_logprobs
from rlhf_core.ppo.trace.tensor_rows import axes
from rlhf_core.rundir import Artifact, StageSpec, read_metrics, read_result
from rlhf_core.seeds import minibatch_seed

SEED = 1
CONFIG = PPO(
    steps=1,
    rollout_batch=8,
    minibatches=2,
    epochs=2,
    micro_batch_tokens=100,
    policy_lr=1e-3,
    critic_lr=1e-3,
    beta=0.3,
    missing_eos_penalty=0.7,
    gae_lambda=0.9,
    sampling=Sampling(max_new_tokens=24, kv_cache_mib=32),
)
SHORT = {"abs": 2e-5}


@pytest.fixture(scope="session")
def inputs(tiny_model, tiny_splits, tmp_path_factory) -> dict[str, Path]:
    """An actor that has moved away from the reference, and a reward model."""
    folder, tokenizer = tmp_path_factory.mktemp("trace"), load_tokenizer(tiny_model)
    moved = load_policy(tiny_model)
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in moved.parameters():
            parameter += 0.02 * torch.randn_like(parameter)
    reward = load_scalar(tiny_model, new_head=True, seed=5)
    reward.model.score.weight.data *= 8  # scores of some size
    save_model(moved, tokenizer, folder / "moved")
    save_model(reward, tokenizer, folder / "reward")
    prompts = tiny_splits / "prompts_train.jsonl"
    return {
        "policy": folder / "moved",
        "reference": tiny_model,
        "reward": folder / "reward",
        "prompts_train": prompts,
    }


def finish(stage: str, config: PPO, inputs: dict[str, Path], folder: Path, **more) -> Path:
    """Run a stage process; its run directory."""
    folder.mkdir(parents=True)
    values = {"ppo": config.model_dump(mode="json", exclude={"gate"}), "dtype": "float32"} | more
    artifacts = {name: Artifact.of(path) for name, path in inputs.items()}
    spec = StageSpec(stage=stage, seed=SEED, config=values, inputs=artifacts, code=code_digest())
    (folder / "spec.json").write_text(spec.model_dump_json())
    command = [sys.executable, "-m", "rlhf_core", stage, str(folder / "spec.json"), str(folder)]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        env=os.environ | {"DS_ACCELERATOR": "cpu"},
        check=False,
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    return folder


def read(folder: Path) -> tuple[dict, dict]:
    files = read_result(folder).files
    return tuple(json.loads((folder / files[name]).read_text()) for name in ("trace", "tokens"))


@pytest.fixture(scope="session")
def traced(inputs, tmp_path_factory) -> tuple[dict, dict]:
    """trace.json and tokens.json of all eight responses."""
    return read(
        finish(
            "trace",
            CONFIG,
            inputs,
            tmp_path_factory.mktemp("trace") / "run",
            rows=CONFIG.rollout_batch,
        )
    )


def step_of(flow: dict, name: str) -> dict:
    return next(step for step in flow["steps"] if step["name"] == name)


def tensor_of(step: dict, name: str, by: str | None = None) -> dict:
    return next(row for row in step["tensors"] if row["name"] == name and row["by"] == by)


# Beside each token


def test_reward_is_minus_beta_kl_and_the_score_less_its_penalty_at_the_last_token(traced):
    for row in traced[1]["rows"]:
        values = row["values"]
        expected = [
            -CONFIG.beta * (new - ref)
            for new, ref in zip(values["logprob"], values["ref_logprob"], strict=True)
        ]
        expected[-1] += row["score"] - (0 if row["ended"] else CONFIG.missing_eos_penalty)
        assert values["reward"] == pytest.approx(expected, **SHORT)
        assert row["reward"] == pytest.approx(sum(expected), **SHORT)
    assert not all(row["ended"] for row in traced[1]["rows"])


def test_kl_is_the_difference_of_the_log_probabilities_and_sums_up(traced):
    sums = []
    for row in traced[1]["rows"]:
        values = row["values"]
        expected = [
            new - ref for new, ref in zip(values["logprob"], values["ref_logprob"], strict=True)
        ]
        assert values["kl"] == pytest.approx(expected, **SHORT)
        assert row["kl"] == pytest.approx(sum(expected), **SHORT)
        sums.append(row["kl"])
    assert traced[0]["metrics"]["ppo/kl_per_response"] == pytest.approx(
        sum(sums) / len(sums), **SHORT
    )
    assert max(map(abs, sums)) > 0.1


def test_return_is_the_advantage_before_whitening_plus_the_value(traced):
    raw, shown = [], []
    for row in traced[1]["rows"]:
        rewards, values, following = row["values"]["reward"], [*row["values"]["value"], 0.0], 0.0
        backwards = []
        for t in reversed(range(len(rewards))):
            following = (
                rewards[t]
                + CONFIG.gamma * values[t + 1]
                - values[t]
                + CONFIG.gamma * CONFIG.gae_lambda * following
            )
            backwards.append(following)
        own = backwards[::-1]
        assert row["values"]["return"] == pytest.approx(
            [a + v for a, v in zip(own, values, strict=False)], **SHORT
        )
        raw += own
        shown += row["values"]["advantage"]
    mean = sum(raw) / len(raw)
    spread = math.sqrt(sum((one - mean) ** 2 for one in raw) / len(raw))
    assert shown == pytest.approx([(one - mean) / spread for one in raw], abs=1e-4)


def test_the_ratio_is_exactly_one_before_the_update_and_not_after(traced):
    flow, tokens = traced
    assert flow["ratio_before_max_distance_from_1"] == 0.0
    ratios = [ratio for row in tokens["rows"] for ratio in row["values"]["ratio"]]
    assert all(ratio > 0 for ratio in ratios) and max(abs(ratio - 1) for ratio in ratios) > 0.01


@pytest.mark.slow
def test_packed_passes_hold_as_many_sequences_as_in_scoring():
    """Rows of 2 and 10 tokens: 12 without padding, 20 with it."""
    passes = []

    def forward(batch: Batch, query: TokenQuery) -> TokenScores:
        passes.append(len(batch.ids_BL))
        return TokenScores(torch.zeros(batch.response_mask_BR.shape))

    batch = collate([Sequence([5], [6]), Sequence([5], [6] * 9)], 0)
    for packing in (False, True):
        config = PPO(micro_batch_tokens=12, packing=packing)
        actor_logprobs(FixedEngine(forward), batch, config)
    assert passes == [1, 1, 2]


@pytest.mark.slow
def test_numbers_are_those_of_the_ppo_stage(traced, inputs, tmp_path):
    folder = finish("ppo", CONFIG, inputs, tmp_path / "ppo")
    first = read_metrics(folder / "metrics.jsonl")[0]["metrics"]
    ours = traced[0]["metrics"]
    same = {name for name in ours if "seconds" not in name}
    assert len(same) >= 20 and {name: ours[name] for name in same} == {
        name: first[name] for name in same
    }


def test_the_rows_asked_for_are_the_extremes_first(traced):
    rows = {row["row"]: row for row in traced[1]["rows"]}
    named = {why: row for row in rows.values() for why in row["why"]}
    assert set(rows) == set(range(8)) and set(named) == {
        "longest",
        "shortest",
        "highest score",
        "lowest score",
    }
    assert len(named["longest"]["ids"]) == max(len(row["ids"]) for row in rows.values())
    assert named["lowest score"]["score"] == min(row["score"] for row in rows.values())
    assert all(len(row["ids"]) == len(row["tokens"]) for row in rows.values())
    assert traced[1]["rows"][-1]["why"] == []


# The flow


def test_forward_passes_are_as_many_as_the_code_path_makes(traced):
    flow, tokens = traced
    size = {row["row"]: (row["prompt_tokens"], len(row["ids"])) for row in tokens["rows"]}
    rows = range(CONFIG.rollout_batch)
    once = len(microbatches([size[row] for row in rows], CONFIG.micro_batch_tokens))
    update = 0
    for epoch in range(CONFIG.epochs):
        shuffled = order(len(rows), seed=minibatch_seed(SEED, 1), epoch=epoch)
        for half in (shuffled[:4], shuffled[4:]):
            update += len(microbatches([size[row] for row in half], CONFIG.micro_batch_tokens))
    assert 1 < once < 8 and update > 4
    found = {step["name"]: step["forward_passes"] for step in flow["steps"]}
    # one token per row each time
    assert found.pop("rollout") == {"sampler": max(response for _, response in size.values())}
    assert found == {
        "experience": dict.fromkeys(("actor", "reference", "critic", "reward"), once),
        "ratio before": {"actor": once},
        "update": dict.fromkeys(("actor", "critic"), update),
        "ratio after": {"actor": once},
        "sync": {},
    }
    assert flow["forward_passes"]["actor"] == 3 * once + update


def test_tensors_have_the_shapes_of_the_batch(traced):
    flow, tokens = traced
    R = max(len(row["ids"]) for row in tokens["rows"])
    P = max(row["prompt_tokens"] for row in tokens["rows"])
    experience = step_of(flow, "experience")
    ids = tensor_of(experience, "ids_BL")
    assert (ids["shape"], ids["axes"], ids["dtype"], ids["bytes"]) == (
        [8, P + R],
        ["B", "L"],
        "int64",
        8 * 8 * (P + R),
    )
    for name in (
        "old_logprobs_BR",
        "ref_logprobs_BR",
        "values_BR",
        "rewards_BR",
        "advantages_BR",
        "returns_BR",
        "kl_BR",
    ):
        row = tensor_of(experience, name)
        assert (row["shape"], row["dtype"], row["bytes"]) == ([8, R], "float32", 4 * 8 * R)
    logprobs = tensor_of(experience, "logprobs_BR", by="actor")
    assert logprobs["axes"] == ["B", "R"] and logprobs["bytes"] == 4 * math.prod(logprobs["shape"])
    assert tensor_of(experience, "scores_BR1", by="reward")["shape"][1] == logprobs["shape"][1] + 1
    part = tensor_of(step_of(flow, "update"), "advantages_BR")
    assert (
        part["shape"][0] <= 4
        and part["count"] == step_of(flow, "update")["forward_passes"]["actor"]
    )


def test_one_rank_sends_nothing(traced):
    assert traced[0]["ranks"] == 1 and traced[0]["bytes_between_ranks"] == 0


@pytest.mark.slow
def test_without_a_critic_there_are_no_values_and_the_trace_says_so(inputs, tmp_path):
    same = {name: path for name, path in inputs.items() if name != "reference"} | {
        "policy": inputs["reference"]
    }
    config = PPO(**CONFIG.model_dump() | {"advantage": "grpo", "group_size": 4})
    flow, tokens = read(finish("trace", config, same, tmp_path / "run", rows=2))
    assert [row["values"]["value"] for row in tokens["rows"]] == [None, None]
    assert "critic" not in flow["forward_passes"] and flow["forward_passes"]["reward"] > 0
    assert any("there is no critic" in note for note in flow["notes"])
    assert any("still the reference" in note for note in flow["notes"])
    assert all(len(set(row["values"]["advantage"])) == 1 for row in tokens["rows"])


@pytest.mark.slow
def test_options_show_their_tensors_and_their_numbers_beside_each_token(
    inputs, tmp_path, monkeypatch
):
    (tmp_path / "rules.py").write_text(
        "def even(prompts, replies, tokens):\n    return [[float(t[-1] in '02468') for t in own]"
        " for own in tokens]\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    functions = [{"function": "rules:even", "per_token": True, "weight": 0.5}]
    options = {
        "kl_exact": True,
        "importance_cap": 2.0,
        "importance_level": "sequence",
        "max_kl_update": 1e-6,
    }
    config = PPO(
        **CONFIG.model_dump()
        | options
        | {"reward": {"functions": functions, "scale": True, "length_penalty": 0.1}}
    )
    flow, tokens = read(finish("trace", config, inputs, tmp_path / "run", rows=8))
    shown = {row["name"]: row for row in step_of(flow, "experience")["tensors"]}
    assert shown["function_scores_BF"]["shape"] == [8, 1] and shown["function_scores_BF"][
        "axes"
    ] == ["B", "F"]
    assert {
        "model_score_B",
        "final_B",
        "process_BR",
        "exact_kl_BR",
        "importance_BR",
    } <= shown.keys()
    std, metrics = flow["metrics"]["ppo/score_running_std"], flow["metrics"]
    for row in tokens["rows"]:
        values = row["values"]
        assert values["process"] == pytest.approx(
            [0.5 * (t[-1] in "02468") / std for t in row["tokens"]], abs=1e-6
        )
        expected = [
            a - CONFIG.beta * b for a, b in zip(values["process"], values["kl"], strict=True)
        ]
        assert values["reward"][:-1] == pytest.approx(expected[:-1], **SHORT)
        assert len(set(values["importance"])) == 1 and min(values["exact_kl"]) >= -1e-6
    assert metrics["ppo/kl_exact_per_response"] == pytest.approx(
        sum(sum(r["values"]["exact_kl"]) for r in tokens["rows"]) / 8
    )
    assert metrics["ppo/policy_updates"] == 2 < CONFIG.epochs * CONFIG.minibatches
    assert flow["settings"]["reward.functions"][0]["function"] == "rules:even"


# Without a stage process


def test_every_tensor_of_the_records_has_a_meaning_and_every_axis_a_name():
    parts = {"batch", "outputs", "reward_model", "rewards", "estimates"}
    for record in (
        Batch,
        Experience,
        ExperienceRows,
        ModelOutputs,
        RewardModelScores,
        ShapedRewards,
        Estimates,
    ):
        names = {field.name for field in dataclasses.fields(record)}
        tensors = names - parts - {"beta", "seconds", "running"}
        assert tensors <= TENSORS.keys()
    assert {axis for name in TENSORS for axis in axes(name)} <= AXES.keys()
    assert (axes("scores_BR1"), axes("logits_BRV"), axes("ended")) == (
        ["B", "R1"],
        ["B", "R", "V"],
        [],
    )
    wanted = [
        "logprob",
        "ref_logprob",
        "kl",
        "exact_kl",
        "process",
        "reward",
        "value",
        "advantage",
        "return",
        "importance",
    ]
    assert list(QUANTITIES) == [*wanted, "ratio"]


def test_a_number_that_is_not_finite_is_written_as_what_it_is():
    written = to_json({"a": [float("nan"), -math.inf, 1.5], "b": "x"})
    assert json.loads(written) == {"a": ["nan", "-inf", 1.5], "b": "x"}


def _two_ranks(rank: int, store: str, report: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=2)
    x, half, double = torch.ones(1000), torch.empty(500), torch.empty(2000)
    with observed({}) as seen:
        dist.all_reduce(x)  # ring: 2 (n - 1) / n of 4,000 bytes
        dist.broadcast(x, 0)
        dist.all_gather_into_tensor(double, x)
        dist.reduce_scatter_tensor(half, x)
        dist.all_gather([torch.empty(1000), torch.empty(1000)], x)
    dist.all_reduce(x)  # no longer observed
    if rank == 0:
        Path(report).write_text(json.dumps([sum(seen.calls.values()), sum(seen.sent.values())]))
    dist.destroy_process_group()


@pytest.mark.slow
def test_bytes_between_two_ranks_are_those_of_the_ring_algorithm(tmp_path):
    mp.spawn(_two_ranks, args=(str(tmp_path / "store"), str(tmp_path / "report")), nprocs=2)
    assert json.loads((tmp_path / "report").read_text()) == [5, 4000 + 2000 + 4000 + 2000 + 4000]
