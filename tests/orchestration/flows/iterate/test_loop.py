"""Whole loops on the small stage program: labels, runs, champions, refusals and stops."""

import itertools
import json
import os
import shutil
import signal
import threading
from pathlib import Path

import pytest
from synthetic import Story
from workspaces import client, started

from flows.iterate.loop import run_iteration, toml
from flows.iterate.plan import ANNOTATORS, IterationOptions, make_plan
from rlhf_core.errors import BadInput
from tasks.iterate.iteration import IterationRound, save
from tasks.records import events
from tasks.records.run_record import Record, record_lock, records
from tasks.records.workspace import Workspace

SCORED = "evaluate.independent_scorer=rlhf_core.quickstart.utility:score"
CONTEST = "registry.contest.metric=eval/independent_win_rate_vs_champion"
JUDGED_BY, JUDGE = "evaluate.judge.function", "rlhf_core.quickstart.annotators:label"
LABELLING = ["label-pairs", "label-votes"]
TRAINING = ["validate", "sft", "reward", "ppo", "evaluate"]


def words(recipe: Path, rounds: int, *more: object) -> list[object]:
    # the scorer decides the contest, also between policies of different reward models
    own = ["--rounds", rounds, "--labels", 10, "--by", ANNOTATORS, "--set", SCORED, *more]
    return ["iterate", recipe, *own, "--json"]


def rows_of(file: str) -> list[dict]:
    return [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]


def record_of(home: Path, one: dict) -> Record:
    (found,) = (values for values in records(Workspace(home)) if values["id"] == one["record_id"])
    return Record.model_validate(found)


@pytest.mark.slow
def test_each_round_is_labelled_by_the_champion_and_trained_on_all_labels_so_far(
    rlhf, recipe_file, home, plan
):
    plan(evaluate={"win_rate_vs_champion": 0.9})
    code, out, err = rlhf(*words(recipe_file, 2))
    assert code == 0, err
    values = json.loads(out)
    assert values["mlflow_problem"] is None and "round 2: promoted" in err
    assert started(home) == [*TRAINING, *[*LABELLING, *TRAINING] * 2]
    rounds = values["rounds"]
    assert [one["outcome"] for one in rounds] == ["promoted"] * 3
    assert all(one["champion"] == one["policy"] for one in rounds)
    _check_labels(home, rounds)
    top = client(home).get_run(values["run_id"])
    assert top.info.status == "FINISHED" and "| 2 | 20 |" in top.data.tags["mlflow.note.content"]
    kept = {item.path for item in client(home).list_artifacts(values["run_id"])}
    assert kept == {"iteration.json", "rounds.html", "round-1", "round-2"}

    again = rlhf(*words(recipe_file, 2))
    assert again[0] == 0 and started(home) == [] and len(records(Workspace(home))) == 3
    assert json.loads(again[1])["rounds"] == rounds
    code, out, _ = rlhf(*words(recipe_file, 3))
    assert code == 0 and json.loads(out)["rounds"][:3] == rounds
    assert started(home) == [*LABELLING, *TRAINING]


def _check_labels(home: Path, rounds: list[dict]) -> None:
    """Check files, provenance and settings of the rounds: who made the pairs, what was read."""
    assert rounds[0]["labels"] is None
    ids: set[str] = set()
    for before, one in itertools.pairwise(rounds):
        labels = one["labels"]
        assert labels["pairs"] == 10 == labels["comparisons"] and labels["votes"] == 30
        rows = rows_of(labels["file"])
        assert all(len(row["votes"]) == 3 == len(row["annotators"]) for row in rows)
        assert ids.isdisjoint(row["pair_id"] for row in rows)
        ids |= {row["pair_id"] for row in rows}
        folder = Path(labels["file"]).with_suffix(".labels")
        known = json.loads((folder / "provenance.json").read_text())
        assert known["run"]["name"] == before["run"] == labels["model_run"]
        assert known["run"]["digests"] == {"policy": before["policy"], "reward": before["reward"]}
        assert (known["authorship"], known["by"]) == ("simulated", ANNOTATORS)
    last = record_of(home, rounds[-1])
    files = [one["labels"]["file"] for one in rounds[1:]]
    assert [source["path"] for source in last.recipe["data"]["new_comparisons"]] == files
    assert last.recipe["reward"]["before"] == rounds[-1]["labels"]["reward_model"]
    assert last.sweep and last.sweep.label == f"round {len(rounds) - 1}"


@pytest.mark.slow
def test_a_refused_round_is_a_result_and_the_next_one_goes_on_from_the_champion(
    rlhf, recipe_file, home, plan
):
    code, out, err = rlhf(*words(recipe_file, 1))  # the policy of round 1 loses the contest
    assert code == 0, err
    rounds = json.loads(out)["rounds"]
    assert [one["outcome"] for one in rounds] == ["promoted", "not promoted"]
    assert rounds[1]["refused_by"] == ["contest"] and rounds[1]["champion"] == rounds[0]["policy"]

    plan(reward={"metrics": {"reward/accuracy": 0.5}}, evaluate={"win_rate_vs_champion": 0.9})
    code, out, err = rlhf(*words(recipe_file, 2))
    assert code == 0, err
    refused = json.loads(out)["rounds"][2]
    assert refused["outcome"] == "refused" and refused["refused_by"] == ["reward.accuracy"]
    assert refused["champion"] == rounds[0]["policy"]

    plan(evaluate={"win_rate_vs_champion": 0.9})
    code, out, err = rlhf(*words(recipe_file, 3))
    assert code == 0, err
    last = json.loads(out)["rounds"][3]
    assert last["outcome"] == "promoted" and last["labels"]["model_run"] == rounds[0]["run"]
    assert len(record_of(home, last).recipe["data"]["new_comparisons"]) == 3


@pytest.mark.slow
def test_a_loop_that_was_stopped_between_labels_and_run_goes_on_with_these_labels(
    rlhf, recipe_file, home
):
    seen = []

    def stop(event) -> None:
        if isinstance(event, events.StageStarted) and event.stage == "validate":
            seen.append(event)
            if len(seen) == 2:
                threading.Timer(0.0, os.kill, (os.getpid(), signal.SIGINT)).start()
                raise KeyboardInterrupt

    end = events.subscribe(stop)
    code, _, err = rlhf(*words(recipe_file, 1))
    end()
    assert code == 130 and "Traceback" not in err
    (folder,) = (home / "iterations").iterdir()
    labels = folder / "round-1" / "comparisons.jsonl"
    before = labels.stat().st_mtime_ns
    assert len(json.loads((folder / "iteration.json").read_text())["rounds"]) == 1
    started(home)

    with record_lock(Workspace(home), f"iterate-{folder.name}") as free:
        assert free
        code, out, err = rlhf(*words(recipe_file, 1))
        assert code == 2 and "is running in another process" in err and not out
    code, out, err = rlhf(*words(recipe_file, 1))
    assert code == 0, err
    assert started(home) == TRAINING and labels.stat().st_mtime_ns == before
    assert len(json.loads(out)["rounds"]) == 2


@pytest.mark.slow
def test_a_judge_labels_for_dpo_without_a_reward_model(rlhf, recipe_file, home, plan):
    plan(evaluate={"win_rate_vs_champion": 0.9})
    settings = ("align=dpo", SCORED, CONTEST, f"{JUDGED_BY}={JUDGE}")
    given = [word for setting in settings for word in ("--set", setting)]
    code, out, err = rlhf("iterate", recipe_file, "--rounds", 1, "--labels", 6, "--json", *given)
    assert code == 0, err
    one = json.loads(out)["rounds"][1]
    assert one["outcome"] == "promoted" and one["reward"] is None
    assert one["labels"]["by"] == "judge" and one["labels"]["votes"] == 6
    rows = rows_of(one["labels"]["file"])
    assert len(rows) == one["labels"]["comparisons"] == 6 - one["labels"]["apart"]
    assert all(row["annotators"] == ["judge"] and row["votes"] == [1] for row in rows)
    trained = record_of(home, one).stage("dpo")
    assert trained and trained.spec


@pytest.mark.slow
def test_without_a_champion_there_is_nothing_to_sample_with(rlhf, recipe_file, home, plan):
    plan(reward={"metrics": {"reward/accuracy": 0.5}})
    code, _, err = rlhf(*words(recipe_file, 2))
    assert code == 3 and "tiny-policy has no champion" in err and "reward is refused" in err
    (folder,) = (home / "iterations").iterdir()
    rounds = json.loads((folder / "iteration.json").read_text())["rounds"]
    assert [one["outcome"] for one in rounds] == ["refused"]
    assert rounds[0]["refused_by"] == ["reward.accuracy"] and not list(folder.glob("round-*"))
    known = json.loads((folder / "iteration.json").read_text())
    assert client(home).get_run(known["run_id"]).info.status == "FAILED"


def test_sources_are_written_as_toml():
    import tomllib

    value = [{"path": 'a "b" é.jsonl', "columns": {"prompt": "q"}, "limit": 3}, "c.jsonl"]
    assert tomllib.loads(f"value = {toml(value)}")["value"] == value


def test_training_data_that_gc_has_removed_are_named_with_the_command_that_makes_them(
    recipe_file, synthetic
):
    """Bug: a larger --rounds after `rlhf gc` ended in a KeyError of a stage process."""
    record = synthetic.write(Story("first"))
    record.save(synthetic.workspace)
    options = IterationOptions(1, 60, ("onpolicy",), "random", ANNOTATORS)
    plan = make_plan(str(recipe_file), ["seed=2", "reward.new_weight=2"], options)
    ended = IterationRound(number=0, outcome="promoted", run="first", record_id=record.id)
    save(synthetic.workspace, plan.iteration.model_copy(update={"rounds": [ended]}))
    validated = record.stage("validate")
    assert validated
    shutil.rmtree(validated.run_dir)
    with pytest.raises(BadInput, match="--until validate --set seed=2\nElse remove "):
        run_iteration(plan, print)
