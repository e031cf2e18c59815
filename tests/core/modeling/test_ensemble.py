"""An ensemble of reward models: one folder, its mean the score, its spread a penalty.

A resumed stage changes nothing.
"""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from plain import FixedEngine, answering, no_functions
from stages import section_spec, splits_of

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import PPO, Evaluate, Reward, load_recipe
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.digest import digest_path
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.evaluation.detectors import disagreement
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.evaluation.scoring import reward_scores
from rlhf_core.evidence.items import data_columns, read_items
from rlhf_core.modeling.ensemble import close_ensemble, load_members, member_folder, offsets_of
from rlhf_core.modeling.models import final_scores, load_scalar, save_model
from rlhf_core.modeling.packed_attention import ALONE
from rlhf_core.modeling.smoke import smoke
from rlhf_core.ppo.experience import make_experience
from rlhf_core.ppo.metrics import experience_metrics
from rlhf_core.ppo.rollout import Rollout
from rlhf_core.ppo.scoring import Models
from rlhf_core.rundir import RunDir, StageResult, StageSpec, read_metrics, read_result
from rlhf_core.seeds import member_seed

MEMBERS = 3
TINY = Reward(lr=3e-3, epochs=1, batch_size=32, checkpoint_every=1, ensemble=MEMBERS)


@pytest.fixture(scope="module")
def stage():
    """Runs the reward stage in this process."""
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    from rlhf_core.__main__ import run_stage

    def run(spec: StageSpec, folder: Path) -> StageResult:
        run_stage(spec, RunDir(folder))
        return read_result(folder)

    return run


def reward_spec(
    model: Path, splits: Path, config: Reward = TINY, *, given: Path | None = None
) -> StageSpec:
    inputs = {"model": model} | splits_of(splits, "comparisons_train", "comparisons_heldout")
    if given:
        inputs["given"] = given
    return section_spec("reward", config, inputs, train=given is None)


@pytest.fixture(scope="module")
def spec(tiny_model, tiny_splits) -> StageSpec:
    return reward_spec(tiny_model, tiny_splits)


@pytest.fixture(scope="module")
def trained(stage, spec, tmp_path_factory) -> tuple[StageResult, Path]:
    folder = tmp_path_factory.mktemp("ensemble") / "run"
    return stage(spec, folder), folder


def test_members_differ_and_the_stage_speaks_of_their_mean(trained):
    result, folder = trained
    items = read_items(folder / "items.parquet")
    members = torch.tensor([items[f"chosen_member_{m}"] for m in range(1, MEMBERS + 1)])
    assert torch.tensor(items["chosen_score"]).allclose(members.mean(0), atol=1e-6)
    assert len({tuple(row) for row in members.tolist()}) == MEMBERS
    both = torch.cat(
        [members, torch.tensor([items[f"rejected_member_{m}"] for m in range(1, MEMBERS + 1)])],
        dim=1,
    )
    # the zero of each member's scores is the mean of its held-out scores
    assert both.mean(-1).abs().max() < 1e-5
    spread = both.std(0, correction=0).mean()
    assert result.metrics["reward/heldout_spread"] == pytest.approx(float(spread), rel=1e-5)
    for m in range(1, MEMBERS + 1):
        right = [
            c > r
            for c, r in zip(items[f"chosen_member_{m}"], items[f"rejected_member_{m}"], strict=True)
        ]
        assert result.metrics[f"reward/accuracy_member_{m}"] == sum(right) / 64
        assert result.intervals[f"reward/accuracy_member_{m}"][0] < sum(right) / 64
    assert (
        len(
            {result.metrics[f"reward/accuracy_member_{m}"] for m in (1, 2, 3)}
            | {result.metrics["reward/accuracy"]}
        )
        > 1
    )


def test_steps_of_all_members_are_one_curve(trained):
    lines = read_metrics(trained[1] / "metrics.jsonl")
    assert [line["step"] for line in lines] == list(range(1, 3 * MEMBERS + 1))
    assert [line["metrics"]["reward/member"] for line in lines] == [1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_first_member_is_what_one_reward_model_would_be(
    stage, trained, tiny_model, tiny_splits, tmp_path
):
    single = stage(
        reward_spec(tiny_model, tiny_splits, TINY.model_copy(update={"ensemble": 1})),
        tmp_path / "run",
    )
    assert single.metrics["reward/accuracy"] == trained[0].metrics["reward/accuracy_member_1"]
    ours, theirs = (
        load_scalar(run.outputs["model"].path).state_dict() for run in (single, trained[0])
    )
    assert all(ours[name].equal(theirs[name]) for name in ours)
    assert not any("member" in name for name in single.metrics)
    assert not (single.outputs["model"].path / "ensemble.json").exists()


def test_an_interrupted_ensemble_ends_with_the_same_bytes(
    stage, spec, trained, tmp_path, monkeypatch
):
    logged, original = [], CheckpointWriter.save

    def stop(writer, checkpoint):
        original(writer, checkpoint)
        logged.append(writer.folder.name)
        if logged.count("member_2") == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(CheckpointWriter, "save", stop)
    with pytest.raises(KeyboardInterrupt):
        stage(spec, tmp_path / "run")
    monkeypatch.setattr(CheckpointWriter, "save", original)
    resumed = stage(spec, tmp_path / "run")
    assert logged == ["member_1", "member_1", "member_2", "member_2"]
    assert resumed.outputs["model"].digest == trained[0].outputs["model"].digest
    assert resumed.metrics == trained[0].metrics


def test_a_given_ensemble_is_measured_as_a_whole(stage, trained, tiny_model, tiny_splits, tmp_path):
    given = trained[0].outputs["model"].path
    config = TINY.model_copy(update={"ensemble": 1})
    measured = stage(reward_spec(tiny_model, tiny_splits, config, given=given), tmp_path / "run")
    assert measured.metrics == pytest.approx(trained[0].metrics, abs=1e-6)


def test_every_member_is_part_of_the_digest_and_of_the_smoke_test(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0].outputs["model"].path, folder)
    smoke("reward", folder)
    before = digest_path(folder)
    weights = member_folder(folder, MEMBERS) / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert digest_path(folder) != before
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(BadInput, match="member_3"):
        smoke("reward", folder)


def test_an_incomplete_ensemble_is_refused(trained, tmp_path):
    folder = tmp_path / "copy"
    shutil.copytree(trained[0].outputs["model"].path, folder)
    shutil.rmtree(folder / "member_2")
    with pytest.raises(BadInput, match=r"lacks the members \[2\] of 3"):
        list(load_members(folder, dtype="float32"))
    (folder / "ensemble.json").unlink()
    (folder / "member_3").rename(folder / "member_2")
    with pytest.raises(BadInput, match="members of an ensemble without"):
        offsets_of(folder)
    (folder / "ensemble.json").write_text(json.dumps({"offsets": [0.0, float("nan")]}))
    with pytest.raises(BadInput, match="a finite number for each"):
        offsets_of(folder)


def test_members_take_off_their_offsets(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    for number in (1, 2):
        model = load_scalar(tiny_model, new_head=True, seed=member_seed(5, number))
        save_model(model, tokenizer, member_folder(tmp_path, number))
    raw = [next(load_members(member_folder(tmp_path, 2), dtype="float32"))]
    close_ensemble(tmp_path, [0.5, -2.0])
    batch = collate([Sequence([2, 3], [4, 5, 1])], 0)
    second = list(load_members(tmp_path, dtype="float32"))[1]
    assert second(batch).allclose(raw[0](batch) + 2.0)


def test_members_with_weights_in_bfloat16_may_change_by_its_rounding_in_a_packed_row(
    tiny_model, tmp_path, monkeypatch
):
    save_model(load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), tmp_path)
    monkeypatch.setitem(ALONE, "float32", -1.0)  # refuses any number
    next(load_members(tmp_path, dtype="float32", weights="bfloat16", packing=True))
    with pytest.raises(BadInput, match="over the border"):
        next(load_members(tmp_path, dtype="float32", weights="float32", packing=True))


def test_evaluation_scores_replies_with_every_member(trained, tiny_model):
    folder, tokenizer = trained[0].outputs["model"].path, load_tokenizer(tiny_model)
    rows = [{"prompt": [{"role": "user", "content": text}]} for text in ("w1 w2", "w3")]
    setup = Setup(tokenizer, rows, Evaluate(), 1, "float32")
    sequences = [
        Sequence(prompt, [6 + i, 1]) for i, prompt in enumerate(setup.prompts_of("policy"))
    ]
    scores = reward_scores(setup, folder, {"policy": Replies(sequences, ["a", "b"], [True, True])})[
        "policy"
    ]
    assert scores.shape == (MEMBERS, 2)
    batch = collate(sequences, tokenizer.pad_token_id)
    for found, forward in zip(scores, load_members(folder, dtype="float32"), strict=True):
        assert found.allclose(final_scores(forward(batch), batch.response_mask_BR), atol=1e-5)


def experience(config: PPO, scores: list[list[float]]):
    """Two responses scored by as many reward models as there are rows."""

    def reward(values: list[float]):
        return lambda batch: torch.tensor(values)[:, None].expand(
            2, batch.response_mask_BR.shape[1] + 1
        )

    policy = answering(lambda batch: torch.zeros(*batch.response_mask_BR.shape, 7))

    members = tuple(map(reward, scores))
    models = Models(FixedEngine(policy), None, policy, members, no_functions)
    rollout = Rollout(
        [Sequence([2], [4, 1]), Sequence([3], [5, 6, 1])],
        [[0.0] * 2, [0.0] * 3],
        [True, False],
        0.0,
    )
    return make_experience(rollout, models, config, beta=0.0, pad_id=0)


def test_uncertainty_penalty_takes_the_variance_off_the_mean():
    """Scores 1 and 3: mean 2, variance 1; scores 4 and 4: mean 4, variance 0.

    The second response pays the penalty for a missing end.
    """
    grouped = {"advantage": "reinforce++", "missing_eos_penalty": 0.25}
    plain = experience(PPO(**grouped), [[1.0, 4.0], [3.0, 4.0]])
    assert plain.rewards.score_B.tolist() == [
        2.0,
        4.0,
    ] and plain.reward_model.spread_B.tolist() == [1.0, 0.0]
    assert plain.reward_B.tolist() == [2.0, 3.75]
    wary = experience(PPO(uncertainty_penalty=0.5, **grouped), [[1.0, 4.0], [3.0, 4.0]])
    assert wary.rewards.score_B.tolist() == [2.0, 4.0] and wary.reward_B.tolist() == [1.5, 3.75]
    assert experience_metrics(wary)["ppo/score_spread"] == 0.5


def test_one_reward_model_has_no_spread():
    single = experience(PPO(advantage="reinforce++"), [[1.0, 4.0]])
    assert single.reward_model.spread_B is None and single.rewards.score_B.tolist() == [1.0, 4.0]
    assert "ppo/score_spread" not in experience_metrics(single)


def test_detector_holds_the_members_against_each_other_not_their_mean():
    columns = {
        "policy_score": [9.0, 9.0],
        "sft_score": [0.0, 9.0],  # the mean: left out
        "policy_member_1": [2.0, 4.0],
        "sft_member_1": [0.0, 2.0],
        "policy_member_2": [0.0, 0.0],
        "sft_member_2": [-1.0, 1.0],
    }
    # member 1: mean 1, std 1 -> 1, 3; member 2: mean 0, std 1 -> 0, 0: spreads 0.5 and 1.5
    assert disagreement(columns).metrics["eval/reward_disagreement"] == pytest.approx(1.0)
    assert disagreement(columns).badness_N == pytest.approx([0.5, 1.5])


def test_columns_of_the_data_have_one_type_each():
    rows = [
        {"meta": {"domain": "code", "level": 2, "mixed": 1}},
        {"meta": {"level": 2.5, "mixed": ["a"]}},
        {},
    ]
    assert data_columns(rows) == {
        "data.domain": ["code", None, None],
        "data.level": [2.0, 2.5, None],
        "data.mixed": ["1", '["a"]', None],
    }


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (["ppo.uncertainty_penalty=0.1"], "uncertainty_penalty is 0.1, but reward.ensemble is 1"),
        (
            ["model.reward='x'", "reward.ensemble=3"],
            "reward.ensemble is 3, but model.reward is given",
        ),
        (["reward.ensemble=9"], "less than or equal to 8"),
    ],
)
def test_options_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        load_recipe("quickstart", settings)
