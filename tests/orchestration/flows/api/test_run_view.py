"""A run from Python: numbers, gates and tables, from this workspace and from MLflow alike."""

import pytest
from synthetic import Story

from flows import api as rlhf
from tasks.analysis import mlflow_runs

STORY = Story("tiny-aaaaaaa-1")


@pytest.fixture
def tracker(synthetic):
    return synthetic.tell(STORY)


def test_a_run_says_its_numbers_and_its_items(synthetic):
    synthetic.write(STORY).save(synthetic.workspace)
    run = rlhf.open_run("tiny-aaaaaaa-1")
    assert run.stages == ["validate", "sft", "reward", "ppo", "evaluate"]
    assert run.metrics["reward/accuracy"] == 0.8
    found = run.estimates["reward/accuracy"]
    assert found.n == 120 and found.low < 0.8 < found.high
    items = run.items("evaluate")
    assert len(items) == 64 and {"prompt", "policy_reply", "policy_score"} <= set(items.columns)
    assert items["policy_score"].mean() == pytest.approx(run.metrics["eval/score_policy"])
    curve = run.curves("ppo")["ppo/kl_per_response"]
    assert curve.index.name == "step" and curve[20] == pytest.approx(6.0)
    assert run.recipe["name"] == "tiny" and run.report is None


def test_what_a_run_does_not_have_is_one_error(synthetic):
    synthetic.write(STORY).save(synthetic.workspace)
    run = rlhf.open_run("latest")
    with pytest.raises(rlhf.BadInput, match="has no items of sft; expected one of reward, eval"):
        run.items("sft")
    with pytest.raises(rlhf.BadInput, match="no stage 'dpo'; expected one of validate, sft"):
        run.curves("dpo")
    with pytest.raises(rlhf.ConfigError, match="no run 'nosuch'"):
        rlhf.open_run("nosuch")


def test_a_run_says_the_same_from_mlflow_as_from_its_workspace(tracker):
    local = rlhf.open_run(tracker.record.name)
    there = mlflow_runs.resolve(tracker.client, tracker.record.name)
    remote = rlhf.Run(mlflow_runs.read(tracker.client, there))
    assert remote.metrics == local.metrics and remote.estimates == local.estimates
    assert remote.gates == local.gates and remote.state == local.state == "finished"
    assert remote.items("reward").equals(local.items("reward"))
    assert remote.link == local.link is not None and remote.run_id == local.run_id
    with pytest.raises(rlhf.BadInput, match="was read from MLflow"):
        remote.explain("accuracy")


def test_the_runs_of_a_workspace_are_listed_the_latest_first(synthetic):
    for name in ("tiny-aaaaaaa-1", "tiny-aaaaaaa-2", "other-1"):
        record = synthetic.write(Story(name, until="sft"))
        record.started += len(rlhf.runs())
        record.save(synthetic.workspace)
    assert [run.name for run in rlhf.runs("tiny-*")] == ["tiny-aaaaaaa-2", "tiny-aaaaaaa-1"]
    assert [run.name for run in rlhf.runs(limit=1)] == ["other-1"]
    assert repr(rlhf.runs()[0]) == "<Run other-1: interrupted>"
