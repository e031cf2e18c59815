"""The whole flow on real Prefect and MLflow.

The stages are a small program, the models a two-layer Llama.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mlflow
import psutil
import pytest
from prefect import get_client
from transformers import AutoModelForCausalLM
from workspaces import client, started

from rlhf_core.errors import BadInput, GateRefused, StageFailed
from tasks.analysis import gate_report
from tasks.cleanup import retention
from tasks.promotion.ledger import Ledger
from tasks.records import events
from tasks.records.run_record import next_name, records
from tasks.records.workspace import Workspace
from tasks.registry import smoke_test

STAGES = ["validate", "sft", "reward", "ppo", "evaluate"]


@pytest.fixture
def run():
    from flows.pipeline import run_pipeline

    return run_pipeline


def assert_versions_are_promoted_with_their_verdicts(home: Path, parent_run_id: str) -> None:
    """Check what MLflow has of the first run that promotes."""
    tables = json.loads(client(home).get_run(parent_run_id).data.tags["mlflow.loggedArtifacts"])
    # what MLflow's evaluation view compares
    assert tables == [{"path": "samples.json", "type": "table"}]
    mlflow.set_tracking_uri(Workspace(home).tracking_uri)
    folder = mlflow.artifacts.download_artifacts("models:/tiny-policy@champion")
    assert (
        AutoModelForCausalLM.from_pretrained(f"{folder}/artifacts/model").config.num_hidden_layers
        == 2
    )
    assert client(home).get_model_version_by_alias("tiny-reward", "champion").version == 1
    verdicts = json.loads(
        client(home).get_model_version_by_alias("tiny-policy", "champion").tags["verdicts"]
    )
    assert verdicts["evaluate.win_rate"]["verdict"] == "passed" and len(verdicts) == 18


def assert_second_version_names_its_parents(home: Path) -> None:
    tags = client(home).get_model_version("tiny-policy", "2").tags
    assert tags["reward_version"] == "1" and set(json.loads(tags["parents"])) == {
        "base",
        "sft",
        "reward",
    }
    assert (
        tags["compared_with"] == client(home).get_model_version("tiny-policy", "1").tags["digest"]
    )


def test_a_pipeline_runs_promotes_and_repeats_only_what_changed(make_recipe, run, home, plan):
    heard = []
    end = events.subscribe(heard.append)
    first = run(make_recipe())
    end()
    assert started(home) == STAGES
    assert [row.name for row in first.rows] == [*STAGES, "promote"]
    assert {row.name: row.value for row in first.rows}["reward"] == 0.8
    assert (
        first.promotion.promoted
        and first.problem is None
        and first.parent_run_id in first.parent_link
    )
    # the display is given the very rows that the result and `--json` are read from
    assert [event.row for event in heard if isinstance(event, events.StepEnded)] == first.rows
    assert_versions_are_promoted_with_their_verdicts(home, first.parent_run_id)

    again = run(make_recipe())
    assert started(home) == [] and all(row.state == "cached" for row in again.rows if row.run_dir)
    assert again.promotion.promoted and "already" in again.promotion.reason

    plan(evaluate={"win_rate_vs_champion": 0.6})
    stricter = {
        "reward": {"gate": {"min_accuracy": 0.79}},
        "registry": {"name": "tiny", "min_win_rate_vs_champion": 0.6},
    }
    loser = run(make_recipe(ppo={"policy_lr": 1e-4}, **stricter))
    assert started(home) == ["ppo", "evaluate"]  # other thresholds train nothing
    assert not loser.promotion.promoted and "60.0% of 400" in loser.promotion.reason
    assert "required a lower bound of more than 60.0%" in loser.promotion.reason
    lost = client(home).get_model_version_by_alias("tiny-policy", "candidate")
    assert lost.version == 2 and smoke_test.recorded(lost)  # to be promoted without torch

    winner = run(make_recipe(ppo={"policy_lr": 1e-4}))  # the bar is back at 0.5
    assert winner.promotion.promoted and winner.promotion.replaced == "1" and started(home) == []
    # its own promotion does not make it evaluate again
    after = run(make_recipe(ppo={"policy_lr": 1e-4}))
    assert started(home) == [] and "already" in after.promotion.reason
    attempts = [(entry.version, entry.outcome) for entry in Ledger(client(home), "tiny").entries()]
    assert attempts == [("1", "done"), ("2", "refused"), ("2", "done")]
    assert_second_version_names_its_parents(home)
    assert_the_contest_is_shown_everywhere(home, winner.parent_run_id)


@pytest.mark.slow
def test_with_a_separate_promoter_a_run_ends_eligible_and_its_candidate_is_promoted_by_hand(
    make_recipe, run, home, plan, rlhf
):
    separate = {"registry": {"name": "tiny", "separate_promoter": True}}
    first = run(make_recipe(**separate))
    assert first.problem is None and not first.promotion.promoted and started(home) == STAGES
    assert first.promotion.reason.endswith("waits for a promoter: rlhf promote tiny-candidate 1.")
    names = {model.name for model in client(home).search_registered_models()}
    assert names == {f"tiny-candidate-{what}" for what in ("policy", "reward", "ledger")}

    assert rlhf("promote", "tiny-candidate", "1")[0] == 0
    champion = client(home).get_model_version_by_alias("tiny-policy", "champion")
    assert champion.tags["pipeline_run_id"] == first.parent_run_id and champion.run_id

    again = run(make_recipe(**separate))
    assert started(home) == [] and "the champion already" in again.promotion.reason
    plan(evaluate={"win_rate_vs_champion": 0.7})
    beaten = run(make_recipe(ppo={"policy_lr": 1e-4}, **separate))  # it meets the champion
    assert "waits for a promoter: rlhf promote tiny-candidate 2" in beaten.promotion.reason
    assert started(home) == ["ppo", "evaluate"]
    code, out, err = rlhf("promote", "tiny-candidate", "2")
    assert code == 0 and "against version 1, contest 1 on these held-out prompts" in out, err
    code, out, _ = rlhf("lineage", "tiny-policy@champion")
    assert code == 0 and "@champion" in out and "trained against: reward model" in out


def assert_the_contest_is_shown_everywhere(home: Path, parent_run_id: str) -> None:
    """Check the ledger, `rlhf gates`, the run in MLflow, and the version's tags and card."""
    contests = [entry.contest for entry in Ledger(client(home), "tiny").entries() if entry.contest]
    assert [(each.look, each.passed) for each in contests] == [(1, False), (2, True)]
    # a lower threshold after a loss is another chance to win on the same prompts
    assert len({each.items for each in contests}) == 1 and contests[0].rule != contests[1].rule
    record = gate_report.find_run(Workspace(home), "latest~1")
    row = gate_report.rows(record.verdicts)[-1]
    assert (row["stage"], row["gate"], row["verdict"]) == ("promote", "champion", "passed")
    explained = gate_report.explain(record, "champion")
    note = explained["decision"]["contest"]["note"]
    assert note == "candidate and champion were trained with the same reward model"
    assert explained["evidence"]["items"].endswith("items.parquet")
    tags = client(home).get_run(parent_run_id).data.tags
    look = "contest 2 on these held-out prompts, 58% of their error budget spent"
    assert tags["contest"].endswith(look)
    version = client(home).get_model_version("tiny-policy", "2")
    contest = json.loads(version.tags["contest"])
    assert (contest["metric"], contest["n"]) == ("eval/win_rate_vs_champion", 400)
    assert (contest["threshold"], contest["verdict"]) == (0.5, "passed")
    assert "eval/win_rate_vs_champion" in version.description


def test_a_refused_gate_stops_before_ppo_and_says_why_everywhere(make_recipe, run, home, plan):
    plan(reward={"metrics": {"reward/accuracy": 0.6}})
    with pytest.raises(
        GateRefused, match=r"reward/accuracy is 0\.6, required at least 0\.7"
    ) as refused:
        run(make_recipe())
    assert refused.value.exit_code == 3 and started(home) == ["validate", "sft", "reward"]
    record = records(Workspace(home))[-1]
    with get_client(sync_client=True) as prefect:
        state = prefect.read_flow_run(record["flow_run_id"]).state
    assert state.name == "Refused" and "required at least 0.7" in state.message
    parent = client(home).get_run(record["run_id"])
    assert (
        parent.info.status == "FAILED"
        and "required at least 0.7" in parent.data.tags["status_reason"]
    )
    assert "refused" in parent.data.tags["mlflow.note.content"]
    assert client(home).search_registered_models() == []

    override = {"accuracy": {"threshold": 0.55, "reason": "shown for the record", "by": "someone"}}
    passed = run(make_recipe(reward={"gate": {"overrides": override}}))
    assert started(home) == ["ppo", "evaluate"] and passed.promotion.promoted
    assert {row.name: row.verdict for row in passed.rows}["reward"] == "overridden"
    overrides = json.loads(
        client(home).get_model_version_by_alias("tiny-policy", "champion").tags["overrides"]
    )
    assert overrides["reward.accuracy"]["by"] == "someone"


def test_from_and_until_run_a_part_on_recorded_inputs(make_recipe, run, home):
    with pytest.raises(BadInput, match="stage validate of this recipe has not been run"):
        run(make_recipe(), from_stage="ppo")
    part = run(make_recipe(), until="reward")
    assert [row.name for row in part.rows] == [
        "validate",
        "sft",
        "reward",
    ] and part.promotion is None
    assert started(home) == ["validate", "sft", "reward"]
    run(make_recipe(), from_stage="ppo", until="ppo")
    assert started(home) == ["ppo"]


@pytest.mark.slow
def test_after_gc_a_promoted_pipeline_repeats_nothing_and_what_nothing_needs_is_gone(
    make_recipe, run, home
):
    run(make_recipe())
    data = make_recipe().data.model_dump() | {"split_seed": 2}
    other = make_recipe(seed=2, data=data)
    run(other, until="sft")
    started(home)
    found = retention.plan(Workspace(home), 0)
    gone = retention.remove(Workspace(home), found, 0)
    assert sorted(
        item.path.name.split("-")[0] for item in gone if item.what == "run directory"
    ) == ["sft", "validate"]
    run(make_recipe())
    assert started(home) == []
    run(other, until="sft")
    assert started(home) == ["validate", "sft"]


def test_a_crashed_stage_is_tried_again_but_bad_input_is_not(
    make_recipe, run, home, plan, data_files
):
    plan(sft={"crash": True})
    run(make_recipe(), until="sft")
    assert started(home) == ["validate", "sft", "sft"]
    with pytest.raises(BadInput, match=r"data.comparisons is 'nowhere.jsonl'"):
        run(
            make_recipe(
                data={"demonstrations": str(data_files / "d.jsonl"), "comparisons": "nowhere.jsonl"}
            )
        )


def test_training_goes_on_without_mlflow_and_promotion_is_left_to_do(
    make_recipe, run, home, monkeypatch
):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(StageFailed, match="Everything trained is kept"):
        run(make_recipe())
    assert started(home) == STAGES
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert run(make_recipe()).promotion.promoted and started(home) == []


def test_sigterm_ends_the_stage_and_the_record(make_recipe, home, plan, tmp_path, command):
    plan(sft={"seconds": 60})
    recipe = make_recipe()
    (tmp_path / "recipe.json").write_text(recipe.model_dump_json())
    code = f"""
    from tasks.execution import stage_process
    stage_process.COMMAND = {command!r}
    from flows.pipeline import run_pipeline
    from rlhf_core.config import Recipe
    from pathlib import Path
    run_pipeline(Recipe.model_validate_json(Path({str(tmp_path / "recipe.json")!r}).read_text()))
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        for _ in range(1200):
            if any((home / "runs").glob("sft-*/metrics.jsonl")):
                break
            assert parent.poll() is None, parent.stdout.read().decode()
            time.sleep(0.05)
        children = psutil.Process(parent.pid).children(recursive=True)
        os.kill(parent.pid, signal.SIGTERM)
        assert parent.wait(40) != 0
        assert psutil.wait_procs(children, timeout=30)[1] == []
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(parent.pid, signal.SIGKILL)
    record = records(Workspace(home))[-1]
    assert record["status"] == "KILLED" and record["stages"][-1]["status"] == "KILLED"


@pytest.mark.slow
def test_dpo_needs_no_reward_model_and_its_policy_meets_the_champion_that_ppo_made(
    make_recipe, run, home, plan, tmp_path, monkeypatch
):
    (tmp_path / "scores.py").write_text("def score(prompts, replies): return [0.0] * len(replies)")
    aligned = {"align": "dpo", "evaluate": {"independent_scorer": "scores:score"}}
    monkeypatch.chdir(tmp_path)
    with pytest.raises(
        BadInput,
        match=r"no stage ppo: it has align = 'dpo'; expected one of .*sft, dpo, evaluate, promote",
    ):
        run(make_recipe(**aligned), until="ppo")
    first = run(make_recipe(**aligned))
    assert started(home) == ["validate", "sft", "dpo", "evaluate"]
    assert [row.name for row in first.rows] == ["validate", "sft", "dpo", "evaluate", "promote"]
    assert {row.name: row.value for row in first.rows}["dpo"] == 0.7 and first.promotion.promoted
    assert [model.name for model in client(home).search_registered_models()] == [
        "tiny-ledger",
        "tiny-policy",
    ]
    tags = client(home).get_model_version_by_alias("tiny-policy", "champion").tags
    assert "reward_version" not in tags and set(json.loads(tags["parents"])) == {"base", "sft"}
    assert set(json.loads(tags["verdicts"])) >= {
        "sft.improvement",
        "dpo.pairs",
        "dpo.lower_bound",
        "evaluate.win_rate",
    }

    plan(evaluate={"win_rate_vs_champion": 0.6})
    by_ppo = run(make_recipe())
    assert started(home) == ["reward", "ppo", "evaluate"] and by_ppo.promotion.replaced == "1"
    assert client(home).get_model_version_by_alias("tiny-reward", "champion").version == 1
    back = run(make_recipe(dpo={"beta": 0.2}, **aligned))
    assert started(home) == ["dpo", "evaluate"] and back.promotion.promoted
    # no other takes its place
    assert client(home).get_model_version_by_alias("tiny-reward", "champion").version == 1

    plan(dpo={"metrics": {"dpo/accuracy_lower": 0.49}}, evaluate={"win_rate_vs_champion": 0.6})
    with pytest.raises(GateRefused, match=r"dpo/accuracy_lower is 0\.49, required more than 0\.5"):
        run(make_recipe(dpo={"beta": 0.3}, **aligned))
    assert started(home) == ["dpo"]


def test_runs_that_wait_for_their_turn_have_names_of_their_own(make_recipe, home):
    recipe, workspace = make_recipe(), Workspace(home)
    with ThreadPoolExecutor(8) as threads:
        names = list(threads.map(lambda _: next_name(workspace, recipe), range(8)))
    assert {name.rsplit("-", 1)[1] for name in names} == set("12345678"), (
        "none of them has a record yet"
    )
