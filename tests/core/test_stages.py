"""The learning stages on a tiny real model: DeepSpeed trains, vLLM generates, stages resume."""

import hashlib
import json
import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from stages import (
    assert_equal_weights,
    finish,
    kill_after_steps,
    section_spec,
    spec_of,
    splits_of,
    start,
)
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
)

from rlhf_core.config import (
    PPO,
    SFT,
    Evaluate,
    EvaluationJudge,
    Judge,
    Reward,
    RewardCheck,
    Sampling,
)
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.evidence.item_metrics import ITEM_METRICS
from rlhf_core.gates.measure import measure
from rlhf_core.judging.onpolicy_pairs import ranked_as_labelled, read_checks
from rlhf_core.rundir import StageResult, StageSpec, read_metrics, read_result

DEMONSTRATIONS = ("demonstrations_train", "demonstrations_heldout")
COMPARISONS = ("comparisons_train", "comparisons_heldout")
EVALUATED = ("prompts_heldout", "demonstrations_heldout")
SFT_TINY = SFT(lr=3e-3, epochs=2, batch_size=16, checkpoint_every=2)
REWARD_TINY = Reward(lr=3e-3, epochs=4, batch_size=16, checkpoint_every=4)
SAMPLING = Sampling(max_new_tokens=12, kv_cache_mib=32)
PPO_TINY = PPO(
    steps=4,
    rollout_batch=16,
    minibatches=2,
    epochs=2,
    policy_lr=1e-3,
    critic_lr=1e-3,
    sampling=SAMPLING,
    checkpoint_every=1,
)


@pytest.fixture(scope="session")
def sft_spec(tiny_model, tiny_splits) -> StageSpec:
    inputs = {"model": tiny_model} | splits_of(tiny_splits, *DEMONSTRATIONS)
    return section_spec("sft", SFT_TINY, inputs, train=True)


@pytest.fixture(scope="session")
def sft(sft_spec, tmp_path_factory) -> StageResult:
    return finish(sft_spec, tmp_path_factory.mktemp("sft") / "run")


@pytest.fixture(scope="session")
def reward(sft, tiny_splits, tmp_path_factory) -> StageResult:
    inputs = {"model": sft.outputs["model"].path} | splits_of(tiny_splits, *COMPARISONS)
    spec = section_spec("reward", REWARD_TINY, inputs, train=True)
    return finish(spec, tmp_path_factory.mktemp("reward") / "run")


def ppo_spec(
    sft: StageResult, reward: StageResult, splits: Path, config: PPO = PPO_TINY
) -> StageSpec:
    inputs = {"policy": sft.outputs["model"].path, "reward": reward.outputs["model"].path}
    inputs["prompts_train"] = splits / "prompts_train.jsonl"
    return section_spec("ppo", config, inputs)


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


@pytest.mark.slow
def test_given_models_are_measured_not_trained(sft, reward, tiny_model, tiny_splits, tmp_path):
    """A given SFT or reward model gets the numbers that its gate needs.

    They equal those of the stage that made the model.
    """
    folder = {"sft": sft.outputs["model"].path, "reward": reward.outputs["model"].path}
    inputs = {"model": tiny_model, "given": folder["sft"]}
    inputs |= splits_of(tiny_splits, *DEMONSTRATIONS)
    measured = finish(section_spec("sft", SFT_TINY, inputs, train=False), tmp_path / "sft")
    assert measured.outputs == {}
    assert measured.metrics["sft/heldout_loss"] == pytest.approx(
        sft.metrics["sft/heldout_loss"], rel=1e-5
    )
    inputs = {"model": folder["sft"], "given": folder["reward"]}
    inputs |= splits_of(tiny_splits, *COMPARISONS)
    spec = section_spec("reward", REWARD_TINY, inputs, train=False)
    measured = finish(spec, tmp_path / "reward")
    assert measured.metrics["reward/accuracy"] == reward.metrics["reward/accuracy"]


def test_sampler_and_trainer_agree_on_log_probabilities_after_every_sync(ppo):
    lines = read_metrics(ppo.outputs["model"].path.parent / "metrics.jsonl")
    assert len(lines) == PPO_TINY.steps
    assert max(line["metrics"]["ppo/sampler_logprob_diff_max"] for line in lines) < 1e-3


def test_first_step_has_no_kl_because_the_actor_is_the_reference(ppo):
    first, *_, last = read_metrics(ppo.outputs["model"].path.parent / "metrics.jsonl")
    assert first["metrics"]["ppo/kl_per_token"] == pytest.approx(0, abs=1e-6)
    assert last["metrics"]["ppo/kl_per_token"] != 0


@pytest.mark.slow
def test_killed_sft_resumes_to_the_same_weights(sft, sft_spec, tmp_path):
    kill_after_steps(sft_spec, tmp_path / "run", 5)
    resumed = finish(sft_spec, tmp_path / "run")
    assert_equal_weights(sft, resumed)
    steps = [line["step"] for line in read_metrics(tmp_path / "run" / "metrics.jsonl")]
    assert steps == list(range(1, len(steps) + 1))


@pytest.mark.slow
def test_killed_sft_resumes_to_the_same_weights_under_zero_2(sft, sft_spec, tmp_path):
    sharded = {"sft": SFT_TINY.model_copy(update={"zero_stage": 2}).model_dump(exclude={"gate"})}
    spec = sft_spec.model_copy(update={"config": sft_spec.config | sharded})
    whole = finish(spec, tmp_path / "whole")
    kill_after_steps(spec, tmp_path / "killed", 5)
    assert_equal_weights(whole, finish(spec, tmp_path / "killed"))
    assert whole.metrics["sft/heldout_loss"] == pytest.approx(
        sft.metrics["sft/heldout_loss"], abs=1e-5
    )


def test_killed_ppo_resumes_to_the_same_weights(sft, reward, ppo, tiny_splits, tmp_path):
    spec = ppo_spec(sft, reward, tiny_splits)
    kill_after_steps(spec, tmp_path / "run", 2)
    assert_equal_weights(ppo, finish(spec, tmp_path / "run"))


@pytest.mark.slow
def test_critic_free_ppo_resumes_and_has_the_samplers_temperature(
    sft, reward, tiny_splits, tmp_path
):
    options = {
        "advantage": "grpo",
        "group_size": 4,
        "kl_in": "loss",
        "kl_estimator": "k3",
        "clip_high": 0.28,
    }
    options |= {
        "dual_clip": 3.0,
        "importance_cap": 2.0,
        "sampling": SAMPLING.model_copy(update={"temperature": 0.7}),
    }
    spec = ppo_spec(sft, reward, tiny_splits, PPO(**PPO_TINY.model_dump() | options))
    whole = finish(spec, tmp_path / "whole")
    kill_after_steps(spec, tmp_path / "killed", 2)
    assert_equal_weights(whole, finish(spec, tmp_path / "killed"))
    metrics = [line["metrics"] for line in read_metrics(tmp_path / "whole" / "metrics.jsonl")]
    assert max(step["ppo/sampler_logprob_diff_max"] for step in metrics) < 1e-3
    assert not any("critic" in name or "value" in name for name in metrics[0])


@pytest.mark.slow
def test_reward_check_watches_the_policys_replies_and_changes_nothing_else(
    sft, reward, ppo, tiny_splits, tmp_path, monkeypatch
):
    (tmp_path / "my_labels.py").write_text(JUDGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=":")
    watch = RewardCheck(every=2, pairs=12, judge=Judge(function="my_labels:judge"))
    spec = ppo_spec(sft, reward, tiny_splits, PPO_TINY.model_copy(update={"reward_check": watch}))
    kill_after_steps(spec, tmp_path / "run", 3)
    checked = finish(spec, tmp_path / "run")
    assert_equal_weights(ppo, checked)
    found = read_checks(tmp_path / "run" / "onpolicy")
    assert list(found) == [0, 2, 4] and all(6 < len(pairs) <= 12 for pairs in found.values())
    for pair in found[4]:
        ours, theirs = len(pair["reply_a"]), len(pair["reply_b"])
        assert pair["label"] == (0.5 if ours == theirs else float(ours < theirs))
    right, n = ranked_as_labelled(found[4])
    assert (
        checked.metrics["ppo/onpolicy_accuracy"] == right / n
        and checked.counts["ppo/onpolicy_accuracy"] == n
    )
    lines = read_metrics(tmp_path / "run" / "metrics.jsonl")
    assert [line["step"] for line in lines if "ppo/onpolicy_accuracy" in line["metrics"]] == [2, 4]


RULES = """
def short(prompts, replies):
    return [-len(reply.split()) / 4 for reply in replies]

def even(prompts, replies, tokens):
    return [[float(token[-1] in "02468") for token in own] for own in tokens]
"""


CARRIED_ON = {  # options whose state a resumed stage must go on with
    "reward": {
        "model_weight": 0,
        "functions": [
            "resume_rules:short",
            {"function": "resume_rules:even", "per_token": True, "weight": 0.5},
        ],
        "centre": True,
        "scale": True,
        "clip": 2.0,
    },
    "kl_controller": "adaptive",
    "kl_target": 0.5,
    "kl_horizon": 20,
    "kl_exact": True,
    "max_kl_update": 0.05,
    "max_rollout_age": 1,
    "importance_cap": 2.0,
    "importance_level": "sequence",
    "steps": 6,
    "checkpoint_every": 2,
}


@pytest.mark.slow
def test_ppo_on_reward_functions_alone_with_old_rollouts_resumes_to_the_same_weights(
    sft, reward, tiny_splits, tmp_path, monkeypatch
):
    """Adaptive state (beta, running moments) and rollouts of older weights survive a kill."""
    (tmp_path / "resume_rules.py").write_text(RULES)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    spec = ppo_spec(sft, reward, tiny_splits, PPO(**PPO_TINY.model_dump() | CARRIED_ON))
    spec = spec.model_copy(
        update={"inputs": {name: item for name, item in spec.inputs.items() if name != "reward"}}
    )
    whole = finish(spec, tmp_path / "whole")
    kill_after_steps(spec, tmp_path / "killed", 3)
    assert_equal_weights(whole, finish(spec, tmp_path / "killed"))
    ours, again = (
        [line["metrics"] for line in read_metrics(tmp_path / run / "metrics.jsonl")]
        for run in ("whole", "killed")
    )
    kept = (
        "ppo/beta",
        "ppo/score_running_mean",
        "ppo/score_running_std",
        "ppo/function_2_mean",
        "ppo/kl_exact_per_token",
    )
    assert [[step[name] for name in kept] for step in ours] == [
        [step[name] for name in kept] for step in again
    ]
    assert ours[0]["ppo/beta"] != ours[-1]["ppo/beta"]
    assert [step["ppo/rollout_age"] for step in ours] == [0, 1, 0, 1, 0, 1]
    fresh, old = (max(step["ppo/sampler_kl"] for step in ours[start::2]) for start in (0, 1))
    assert fresh < 1e-6 < old


@pytest.mark.slow
def test_spent_kl_budget_stops_ppo_and_keeps_the_last_checkpoint(
    sft, reward, tiny_splits, tmp_path
):
    config = PPO_TINY.model_copy(
        update={"kl_budget": 0.05, "steps": 50, "policy_lr": 3e-3, "beta": 0.0}
    )
    process = start(ppo_spec(sft, reward, tiny_splits, config), tmp_path / "run")
    assert process.wait() == 2
    assert "the budget is 0.05" in (tmp_path / "run" / "failure.json").read_text()
    assert list((tmp_path / "run" / "checkpoints").glob("step-*"))
    assert read_result(tmp_path / "run") is None


@pytest.mark.slow
def test_a_champion_of_another_architecture_and_of_another_tokenizer_is_compared(
    sft, reward, tiny_model, tiny_splits, tmp_path
):
    deeper = LlamaForCausalLM(AutoConfig.from_pretrained(tiny_model, num_hidden_layers=3))
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    deeper.save_pretrained(tmp_path / "deeper")
    tokenizer.save_pretrained(tmp_path / "deeper")
    inputs = splits_of(tiny_splits, *EVALUATED)
    inputs |= {"policy": sft.outputs["model"].path, "sft": sft.outputs["model"].path}
    inputs |= {"reward": reward.outputs["model"].path, "champion": tmp_path / "deeper"}
    inputs["champion_reward"] = reward.outputs["model"].path  # the same one: the same scores
    config = {
        "evaluate": Evaluate(sampling=SAMPLING, max_prompts=20).model_dump(exclude={"gate"}),
        "dtype": "float32",
    }
    result = finish(spec_of("evaluate", config, inputs), tmp_path / "run")
    assert result.counts["eval/win_rate_vs_champion"] == 20
    by_its_reward = "eval/win_rate_vs_champion_by_its_reward"
    assert result.metrics[by_its_reward] == result.metrics["eval/win_rate_vs_champion"]
    _, items = items_of(result, tmp_path / "run")
    for name in ("policy", "champion"):
        assert items[f"{name}_by_champions_reward"] == items[f"{name}_score"]
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(tmp_path / "deeper")
    again = finish(spec_of("evaluate", config, inputs), tmp_path / "again")
    assert again.counts["eval/win_rate_vs_champion"] == 20
    _, others = items_of(again, tmp_path / "again")
    assert others["champion_reply"] == items["champion_reply"]  # its prompts are by its own tokens


REPLY = {
    "reply": "string",
    "score": "double",
    "tokens": "int64",
    "ended": "bool",
    "repetition": "double",
}
JUDGE = """
def judge(prompts, replies_a, replies_b):
    pairs = zip(replies_a, replies_b)
    return [0.5 if len(a) == len(b) else float(len(a) < len(b)) for a, b in pairs]

def broken(prompts, replies):
    return [float("nan")] * len(replies)
"""


def items_of(result: StageResult, folder: Path) -> tuple[dict[str, str], dict[str, list]]:
    """Return types by column, and the columns, of a stage's items.parquet."""
    table = pq.read_table(folder / result.files["items"])
    return {field.name: str(field.type) for field in table.schema}, table.to_pydict()


def assert_gates_can_use_items(result: StageResult, folder: Path) -> None:
    """Check that a gate computes from the items what the stage states, over as many samples."""
    known = ITEM_METRICS.keys() & result.metrics.keys()
    assert len(known) >= 5
    for metric in known:
        rule = GateRule(
            stage=result.stage, metric=metric, bound="at least", threshold=0.0, confidence=0.9
        )
        found = measure(rule, result, folder)
        assert (
            found.problem is None and found.confidence == 0.9 and found.n == result.counts[metric]
        ), (metric, found)
        assert found.interval[0] - 1e-6 <= result.metrics[metric] <= found.interval[1] + 1e-6, (
            metric,
            found,
        )


def test_reward_leaves_each_heldout_pair_with_its_scores(reward, tiny_splits, sft):
    assert_gates_can_use_items(reward, reward.outputs["model"].path.parent)
    types, items = items_of(reward, reward.outputs["model"].path.parent)
    assert types == {
        "pair_id": "string",
        "prompt_id": "string",
        "prompt": "string",
        "chosen": "string",
        "rejected": "string",
        "chosen_score": "double",
        "rejected_score": "double",
        "chosen_tokens": "int64",
        "rejected_tokens": "int64",
    }
    right = [
        chosen > rejected
        for chosen, rejected in zip(items["chosen_score"], items["rejected_score"], strict=True)
    ]
    assert len(right) == 64 and sum(right) / 64 == reward.metrics["reward/accuracy"]
    messages = json.dumps([["user", items["prompt"][5]]], separators=(",", ":")).encode()
    pair = hashlib.sha256(messages).hexdigest() + items["chosen"][5] + items["rejected"][5]
    assert items["pair_id"][5] == hashlib.sha256(pair.encode()).hexdigest()[:16]
    # one token per word, and EOS
    assert items["chosen_tokens"][5] == len(items["chosen"][5].split()) + 1


@pytest.fixture
def opinions(sft, reward, ppo, tiny_model, tiny_splits, tmp_path, monkeypatch):
    """Make a judge that prefers short replies, and the inputs of an evaluation by every scorer.

    The second reward model has another tokenizer.
    """
    (tmp_path / "my_opinions.py").write_text(JUDGE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    second = LlamaForSequenceClassification.from_pretrained(sft.outputs["model"].path, num_labels=1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.add_tokens(["another"])
    second.resize_token_embeddings(len(tokenizer))
    for part in (second, tokenizer):
        part.save_pretrained(tmp_path / "second")
    return splits_of(tiny_splits, *EVALUATED, "comparisons_heldout") | {
        "policy": ppo.outputs["model"].path,
        "sft": sft.outputs["model"].path,
        "champion": tiny_model,
        "reward": reward.outputs["model"].path,
        "reward_2": tmp_path / "second",
    }


def evaluation_spec(config: Evaluate, inputs: dict[str, Path]) -> StageSpec:
    values = {"evaluate": config.model_dump(mode="json", exclude={"gate"}), "dtype": "float32"}
    return spec_of("evaluate", values, inputs)


@pytest.mark.slow
def test_evaluation_with_every_opinion_leaves_items_detectors_and_verdicts(opinions, tmp_path):
    """Evaluate with champion, second reward model and judge.

    The second reward model is the independent scorer.
    """
    judge = EvaluationJudge(function="my_opinions:judge", max_pairs=30, agreement_pairs=20)
    config = Evaluate(sampling=SAMPLING, max_prompts=40, judge=judge)
    result = finish(evaluation_spec(config, opinions), tmp_path / "run")

    assert_gates_can_use_items(result, tmp_path / "run")
    types, items = items_of(result, tmp_path / "run")
    scores = REPLY | {"score_2": "double", "independent": "double"}
    expected = {
        f"{name}_{column}": kind
        for name in ("policy", "sft", "champion")
        for column, kind in scores.items()
    }
    expected |= {"prompt_id": "string", "prompt": "string", "policy_kl": "double"}
    expected |= {
        f"judge_vs_{name}{order}": "double"
        for name in ("sft", "champion")
        for order in ("", "_policy_first", "_policy_second")
    }
    assert types == expected
    assert items["policy_independent"] == items["policy_score_2"]
    assert sum(items["policy_kl"]) / 40 == pytest.approx(
        result.metrics["eval/kl_per_response"], rel=1e-5
    )
    assert sum(items["policy_score"]) / 40 == pytest.approx(
        result.metrics["eval/score_policy"], rel=1e-5
    )
    judged = [value for value in items["judge_vs_champion"] if value is not None]
    assert len(judged) == 30 == result.counts["eval/judge_win_rate_vs_champion"]
    assert sum(judged) / 30 == pytest.approx(result.metrics["eval/judge_win_rate_vs_champion"])
    assert result.metrics["eval/judge_position_bias"] == 0  # it looks at nothing but length
    assert result.metrics["eval/judge_first_position"] == 0.5
    assert_judge_agrees(result, tmp_path / "run", rows=20)
    names = ("length", "repetition", "opening", "kl", "independent", "disagreement")
    for name in names:
        assert (tmp_path / "run" / result.files[f"detector_{name}"]).stat().st_size > 0
        table = json.loads((tmp_path / "run" / result.files[f"worst_{name}"]).read_text())
        assert len(table["data"]) == 20 and len(table["data"][0]) == len(table["columns"])
    assert result.metrics["eval/reward_disagreement"] > 0


def assert_judge_agrees(result: StageResult, folder: Path, *, rows: int) -> None:
    """Check the agreement that the stage states against the file of the labelled pairs."""
    pairs = pq.read_table(folder / result.files["judged_pairs"]).to_pylist()
    assert len(pairs) == rows == result.metrics["eval/agreement_pairs"]
    decided = [pair for pair in pairs if pair["judge"] != 0.5]
    shorter = [len(pair["chosen"]) < len(pair["rejected"]) for pair in decided]
    assert [pair["judge"] for pair in decided] == [float(short) for short in shorter]
    found, counts = result.metrics, result.counts
    assert found["eval/agreement_judge_people"] == pytest.approx(sum(shorter) / len(decided))
    assert counts["eval/alpha_judge_people"] == len(decided)
    right = [pair["chosen_score"] > pair["rejected_score"] for pair in pairs]
    assert found["eval/agreement_reward_people"] == pytest.approx(sum(right) / rows)
    assert found["eval/alpha_judge_reward_lower"] < found["eval/alpha_judge_reward_upper"]


@pytest.mark.slow
def test_a_scorer_that_gives_nan_refuses_the_evaluation(opinions, tmp_path):
    broken = Evaluate(sampling=SAMPLING, max_prompts=40, independent_scorer="my_opinions:broken")
    assert start(evaluation_spec(broken, opinions), tmp_path / "refused").wait() == 2
    assert (
        "the independent scorer gave nan for reply 0"
        in (tmp_path / "refused" / "failure.json").read_text()
    )


def test_evaluation_of_a_model_against_itself_is_a_tie(sft, reward, tiny_splits, tmp_path):
    same = sft.outputs["model"].path
    inputs = {"policy": same, "sft": same, "reward": reward.outputs["model"].path}
    inputs |= splits_of(tiny_splits, *EVALUATED)
    config = Evaluate(sampling=SAMPLING, max_prompts=60).model_dump(exclude={"gate"})
    result = finish(
        spec_of("evaluate", {"evaluate": config, "dtype": "float32"}, inputs), tmp_path / "run"
    )
    assert result.metrics["eval/win_rate"] == 0.5
    assert result.metrics["eval/kl_per_response"] == 0
    assert result.metrics["eval/alignment_tax"] == 0
    assert result.counts["eval/win_rate"] == 60
    types, items = items_of(result, tmp_path / "run")
    expected = {
        f"{name}_{column}": kind for name in ("policy", "sft") for column, kind in REPLY.items()
    }
    assert types == expected | {"prompt_id": "string", "prompt": "string", "policy_kl": "double"}
    assert items["policy_reply"] == items["sft_reply"]
    assert len(set(items["prompt_id"])) == len(set(items["prompt"]))
    assert "eval/kl_per_reward" not in result.metrics  # no gain, no price


@pytest.mark.slow
def test_models_saved_in_bfloat16_are_the_ones_that_are_measured_and_that_generate(
    tiny_model, tiny_splits, tmp_path
):
    """SFT and reward model measure what they save; PPO and the evaluation take it up."""
    half = {"export_dtype": "bfloat16"}
    demonstrations = splits_of(tiny_splits, *DEMONSTRATIONS)
    inputs = {"model": tiny_model} | demonstrations
    sft = finish(section_spec("sft", SFT_TINY, inputs, train=True, **half), tmp_path / "sft")
    policy = sft.outputs["model"].path
    given = finish(
        section_spec("sft", SFT_TINY, inputs | {"given": policy}, train=False), tmp_path / "given"
    )
    assert given.metrics["sft/heldout_loss"] == sft.metrics["sft/heldout_loss"]
    pairs = splits_of(tiny_splits, *COMPARISONS)
    spec = section_spec("reward", REWARD_TINY, {"model": policy} | pairs, train=True, **half)
    reward = finish(spec, tmp_path / "reward")
    folder = reward.outputs["model"].path
    spec = section_spec(
        "reward", REWARD_TINY, {"model": policy, "given": folder} | pairs, train=False
    )
    measured = finish(spec, tmp_path / "measured")
    assert measured.metrics["reward/heldout_margin"] == reward.metrics["reward/heldout_margin"]
    inputs = {"policy": policy, "reward": folder}
    inputs["prompts_train"] = tiny_splits / "prompts_train.jsonl"
    ppo = finish(
        section_spec("ppo", PPO_TINY, inputs, frozen_dtype="bfloat16", **half), tmp_path / "ppo"
    )
    trained = ppo.outputs["model"].path
    for one in (policy, folder, trained):
        assert json.loads((one / "config.json").read_text())["dtype"] == "bfloat16"
    inputs = {"policy": trained, "sft": policy, "reward": folder}
    inputs |= splits_of(tiny_splits, *EVALUATED)
    config = Evaluate(sampling=SAMPLING, max_prompts=40)
    evaluated = finish(evaluation_spec(config, inputs), tmp_path / "evaluate")
    assert evaluated.metrics["eval/heldout_loss_sft"] == pytest.approx(
        sft.metrics["sft/heldout_loss"], rel=1e-5
    )
    assert AutoModelForCausalLM.from_pretrained(trained, dtype="auto").dtype == torch.bfloat16
