"""MLflow gets everything once: now, later, after an outage, after a crash in between.

The stores and the server are real.
"""

import json
import shutil
import signal
import time
from pathlib import Path

import mlflow
import pytest
from mlflow import MlflowClient
from mlflow_server import mlflow_server
from recipes import tiny_recipe

from flows.platform.pages import free_port
from rlhf_core.gates.decide import Subject, decide_all
from rlhf_core.rundir import Artifact, RunDir, StageResult, StageSpec
from tasks.execution.stage_process import run_stage
from tasks.records.process_identity import user
from tasks.records.run_record import Record, Registration, pending
from tasks.records.workspace import Workspace
from tasks.registry import packaging, versions
from tasks.registry.fetching import fetch
from tasks.tracking import client as tracking
from tasks.tracking import rendering
from tasks.tracking.client import connect
from tasks.tracking.forwarder import Forwarder
from tasks.tracking.sync import sync
from tasks.tracking.tracker import Tracker

RECIPE = tiny_recipe()


def sft_spec(folder: Path) -> StageSpec:
    (folder / "split.jsonl").write_text("{}\n")
    (folder / "base").mkdir(exist_ok=True)
    (folder / "base" / "weights").write_text("w")
    inputs = {
        "model": Artifact.of(folder / "base"),
        "demonstrations_train": Artifact.of(folder / "split.jsonl"),
    }
    return StageSpec(stage="sft", seed=7, config={"sft": {"lr": 0.1}}, inputs=inputs, code="code")


def track(workspace: Workspace, tmp_path: Path, command) -> Tracker:
    """Run a whole pipeline of one stage, forwarded as it goes."""
    record = Record.new(workspace, RECIPE)
    tracker = Tracker(workspace, record)
    run_one(tracker, sft_spec(tmp_path), command)
    tracker.end("FINISHED")
    return tracker


def run_one(tracker: Tracker, spec: StageSpec, command) -> None:
    run_dir = tracker.workspace.run_dir(spec)
    tracker.stage_started("sft", run_dir, cached=(run_dir / "result.json").exists())
    done = run_stage(spec, run_dir, watch=tracker.tick, command=command)
    tracker.stage_ended(
        "sft", status="FINISHED", decisions=decide_all(RECIPE, Subject(done.result, spec, run_dir))
    )


def test_a_pipeline_is_in_mlflow_with_all_it_left(home, tmp_path, command):
    tracker = track(Workspace.here(), tmp_path, command)
    assert tracker.problem is None and pending(tracker.workspace) == []
    client, record = tracker.client, tracker.record
    parent, run = client.get_run(record.run_id), client.get_run(record.stages[0].run_id)
    assert parent.info.status == run.info.status == "FINISHED"
    assert run.data.tags["mlflow.parentRunId"] == record.run_id
    assert (
        run.data.tags["run_digest"] == sft_spec(tmp_path).digest
        and run.data.tags["cached"] == "false"
    )
    assert run.data.params["sft.lr"] == "0.1" and parent.data.params["ppo.beta"] == "0.05"
    history = client.get_metric_history(record.stages[0].run_id, "sft/loss")
    assert [(point.step, point.value) for point in history] == [
        (1, 1.0),
        (2, 0.5),
        (3, pytest.approx(1 / 3)),
    ]
    written = [
        json.loads(line)["time"] for line in (record.stages[0].run_dir / "metrics.jsonl").open()
    ]
    assert [point.timestamp for point in history] == [int(when * 1000) for when in written]
    assert parent.data.metrics["sft/heldout_loss"] == run.data.metrics["sft/heldout_loss"] == 2.0
    assert run.inputs.dataset_inputs[0].dataset.name == "demonstrations_train"
    files = {item.path for item in client.list_artifacts(record.stages[0].run_id)}
    assert files >= {
        "curves.png",
        "samples.json",
        "docs",
        "stage.log",
        "spec.json",
        "result.json",
        "gates.json",
    }
    assert {item.path for item in client.list_artifacts(record.run_id)} >= {
        "recipe.json",
        "metrics.json",
        "requirements",
    }
    assert "| sft | improvement&ensp; |" in parent.data.tags["mlflow.note.content"]
    model = client.get_logged_model(run.outputs.model_outputs[0].model_id)
    assert model.tags["digest"] == record.stages[0].result.outputs["model"].digest


def test_the_columns_of_mlflows_list_say_who_ran_what_on_which_data_with_which_models(
    home, tmp_path, command
):
    tracker = track(Workspace.here(), tmp_path, command)
    client, record = tracker.client, tracker.record
    parent, run = client.get_run(record.run_id), client.get_run(record.stages[0].run_id)
    for shown in (parent, run):
        tags = shown.data.tags
        assert shown.info.user_id == tags["mlflow.user"] == user()
        assert tags["mlflow.source.name"] == f"rlhf run {RECIPE.name}"
        assert tags["mlflow.source.git.commit"] == record.commit
    assert parent.inputs.dataset_inputs == run.inputs.dataset_inputs
    assert [item.model_id for item in parent.outputs.model_outputs] == [
        item.model_id for item in run.outputs.model_outputs
    ]


def test_without_a_commit_there_is_no_column_with_one(home):
    record = Record.new(Workspace.here(), RECIPE, "x").model_copy(update={"commit": "0.2.0+3fa9"})
    assert "mlflow.source.git.commit" not in rendering.columns(record, "ann")


@pytest.mark.parametrize("status", ["FINISHED", "FAILED"])
def test_the_rest_of_a_finished_stage_goes_to_mlflow_while_the_next_one_starts(home, status):
    """A stage that did not finish is in MLflow before the run stops."""
    tracker = Tracker(Workspace.here(), Record.new(Workspace.here(), RECIPE))
    run = RunDir(tracker.workspace.runs / "sft-x")
    tracker.stage_started("sft", run.path, cached=False)
    tracker.tick()
    run.log(1, 1, {"sft/loss": 1.0})
    tracker.stage_ended("sft", status=status)
    assert tracker.record.stages[0].closed == (status == "FAILED")
    tracker.stage_started("reward", RunDir(tracker.workspace.runs / "reward-x").path, cached=False)
    tracker.tick()
    assert tracker.record.stages[0].closed and not tracker.record.stages[1].closed
    sent = tracker.client.get_run(tracker.record.stages[0].run_id)
    assert (sent.info.status, sent.data.metrics["sft/loss"]) == (status, 1.0)


def test_a_stage_that_was_finished_already_gets_its_page_at_once(home):
    tracker = Tracker(Workspace.here(), Record.new(Workspace.here(), RECIPE))
    tracker.stage_started("sft", RunDir(tracker.workspace.runs / "sft-x").path, cached=True)
    tracker.stage_ended("sft", status="FINISHED")
    assert tracker.link("sft") and tracker.record.stages[0].closed


def test_forwarding_again_after_a_crash_in_between_doubles_nothing(home, tmp_path, command):
    tracker = track(Workspace.here(), tmp_path, command)
    record = tracker.record.model_copy(deep=True)
    # as if the process had died before it could note anything that it had sent
    record.opened = record.closed = False
    record.run_id = record.experiment_id = None
    for stage in record.stages:
        stage.run_id, stage.offset, stage.closed = None, 0, False
    record.save(tracker.workspace)
    Forwarder(tracker.workspace, record).forward()
    assert (
        record.run_id == tracker.record.run_id
        and record.stages[0].run_id == tracker.record.stages[0].run_id
    )
    client = tracker.client
    assert len(client.search_runs([record.experiment_id])) == 2
    assert len(client.get_metric_history(record.stages[0].run_id, "sft/loss")) == 3
    table = client.download_artifacts(record.stages[0].run_id, "samples.json", str(tmp_path))
    assert len(json.loads(Path(table).read_text())["data"]) == 2


def test_a_cached_stage_is_logged_in_full_again(home, tmp_path, command):
    first, second = (track(Workspace.here(), tmp_path, command) for _ in range(2))
    run = second.client.get_run(second.record.stages[0].run_id)
    assert run.info.run_id != first.record.stages[0].run_id and run.data.tags["cached"] == "true"
    assert len(second.client.get_metric_history(run.info.run_id, "sft/loss")) == 3
    assert second.record.name.endswith("-2")
    pictures = [
        Path(tracker.client.download_artifacts(tracker.record.stages[0].run_id, "curves.png"))
        for tracker in (first, second)
    ]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()
    models = second.client.search_logged_models([second.record.experiment_id])
    assert len(models) == 1  # the same bytes are one logged model


def test_a_killed_pipeline_is_told_as_killed_by_the_next_sync(home, tmp_path, command):
    workspace = Workspace.here()
    record = Record.new(workspace, RECIPE)
    tracker = Tracker(workspace, record)
    tracker.stage_started("sft", workspace.runs / "sft-gone", cached=False)
    assert sync(workspace).forwarded == [record.name]
    runs = tracker.client.search_runs([tracker.client.get_experiment_by_name("tiny").experiment_id])
    assert {run.info.status for run in runs} == {"KILLED"}


@pytest.mark.parametrize("status", ["KILLED", "FAILED"])
def test_a_run_that_breaks_off_between_a_stage_and_its_gate_leaves_no_stage_running(
    home, tmp_path, status
):
    tracker = Tracker(Workspace.here(), Record.new(Workspace.here(), RECIPE))
    tracker.stage_started("sft", tracker.workspace.runs / "sft-done", cached=False)
    tracker.end(status, "the log could not be written")
    assert [(stage.status, stage.error) for stage in tracker.record.stages] == [
        (status, "the log could not be written")
    ]
    runs = tracker.client.search_runs([tracker.record.experiment_id])
    assert [run.info.status for run in runs] == [status, status]


@pytest.mark.parametrize(
    ("server", "page", "expected"),
    [
        ("http://mlflow:5000", None, "http://mlflow:5000"),
        ("http://mlflow:5000", "https://mlflow.example.org/", "https://mlflow.example.org"),
        ("sqlite:///x.db", "https://mlflow.example.org", "http://127.0.0.1:5000"),
    ],
)
def test_links_lead_where_people_find_mlflow(monkeypatch, server, page, expected):
    monkeypatch.delenv("RLHF_MLFLOW_PAGE", raising=False)
    if page:
        monkeypatch.setenv("RLHF_MLFLOW_PAGE", page)
    assert tracking.page(server, "1", "a") == f"{expected}/#/experiments/1/runs/a"


def test_registered_weights_are_hard_links(home, tmp_path, command):
    workspace = Workspace.here()
    tracker = Tracker(workspace, Record.new(workspace, RECIPE))
    run_one(tracker, sft_spec(tmp_path), command)
    artifact = tracker.record.stages[0].result.outputs["model"]
    tracker.register(
        Registration(model="tiny-reward", stage="sft", artifact=artifact, tags={"verdicts": "{}"})
    )
    assert tracker.retry(), tracker.problem
    version = tracker.client.get_model_version_by_alias("tiny-reward", "candidate")
    stored = versions.local_folder(version.source) / "artifacts" / "model"
    assert (stored / "weights").stat().st_ino == (artifact.path / "weights").stat().st_ino
    assert (
        version.tags["digest"] == artifact.digest
        and version.tags["pipeline_run_id"] == tracker.record.run_id
    )


def test_the_same_bytes_under_two_names_share_no_files(home, tmp_path):
    """Else the records of the one that registers last are those of the other too."""
    workspace, weights = Workspace(home), tmp_path / "model"
    weights.mkdir()
    (weights / "weights").write_text("w")
    artifact, run = Artifact.of(weights), RunDir(workspace.runs / "reward-x")
    (run.path / "result.json").write_text(
        StageResult(stage="reward", digest="d", seconds=1.0).model_dump_json()
    )
    for name in ("one", "two", "one", "two"):
        tracker = Tracker(workspace, Record.new(workspace, RECIPE))
        tracker.stage_started("reward", run.path, cached=True)
        tracker.stage_ended("reward", status="FINISHED")
        model = f"{name}-reward"
        tracker.register(
            Registration(model=model, stage="reward", artifact=artifact, tags={}, card=name)
        )
        tracker.end("FINISHED")
        assert not tracker.problem
    found = [tracker.client.get_model_version(f"{name}-reward", "1") for name in ("one", "two")]
    assert len(tracker.client.search_model_versions()) == len({one.source for one in found}) == 2
    for version in found:
        folder = packaging.local_folder(version.source)
        versions.require_digests(folder, version)
        assert (folder / "README.md").read_text() == version.name.removesuffix("-reward")


def test_asking_another_store_leaves_the_workspace_with_its_own(
    home, tmp_path, empty_store, monkeypatch
):
    mine, other = (
        Workspace.here().tracking_uri,
        f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}",
    )
    connect(other)
    assert Workspace.here().tracking_uri == mine and mlflow.get_tracking_uri() == other
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    connect(other)
    assert Workspace.here().tracking_uri == "http://127.0.0.1:9"


@pytest.mark.slow
def test_a_server_that_hangs_stops_nothing_and_loses_nothing(
    home, tmp_path, empty_store, monkeypatch
):
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "2")
    workspace, store = Workspace.here(), tmp_path / "server"
    store.mkdir()
    shutil.copy(empty_store, store / "db")
    tracker = Tracker(workspace, Record.new(workspace, RECIPE))
    run = RunDir(workspace.runs / "sft-x")
    with mlflow_server(store, port) as send:
        tracker.stage_started("sft", run.path, cached=False)
        run.log(1, 3, {"sft/loss": 3.0})
        assert wait_for(tracker.retry), tracker.problem
        send(signal.SIGSTOP)
        began = time.monotonic()
        run.log(2, 3, {"sft/loss": 2.0})
        assert not tracker.retry()
        run.log(3, 3, {"sft/loss": 1.0})
        tracker.stage_ended("sft", status="FINISHED")
        tracker.end("FINISHED")
        assert time.monotonic() - began < 30 and tracker.problem
        assert sync(workspace).waiting == [tracker.record.name]
        send(signal.SIGCONT)
        assert wait_for(lambda: sync(workspace).forwarded == [tracker.record.name])
        client = MlflowClient(tracking_uri=f"http://127.0.0.1:{port}")
        runs = {
            run.info.run_name: run for run in client.search_runs([tracker.record.experiment_id])
        }
        assert len(runs) == 2 and runs["sft"].info.status == "FINISHED"
        history = client.get_metric_history(runs["sft"].info.run_id, "sft/loss")
        assert [point.value for point in history] == [3.0, 2.0, 1.0]
        register_on_server(workspace, tmp_path)
    assert pending(workspace) == []


def wait_for(succeeds) -> bool:
    """Try up to five times: a busy machine may need a second attempt."""
    return any(succeeds() for _ in range(5))


def register_on_server(workspace: Workspace, folder: Path) -> None:
    """Weights are uploaded once and come back with the same bytes; the card can be renewed."""
    weights = folder / "model"
    weights.mkdir()
    (weights / "weights").write_text("w" * 1000)
    tracker = Tracker(workspace, Record.new(workspace, RECIPE))
    run = RunDir(workspace.runs / "reward-x")
    (run.path / "result.json").write_text(
        StageResult(stage="reward", digest="d", seconds=1.0).model_dump_json()
    )
    tracker.stage_started("reward", run.path, cached=False)
    tracker.stage_ended("reward", status="FINISHED")
    artifact = Artifact.of(weights)
    tracker.register(Registration(model="tiny-reward", stage="reward", artifact=artifact, tags={}))
    tracker.end("FINISHED")
    assert wait_for(tracker.retry), tracker.problem
    version = tracker.client.get_model_version_by_alias("tiny-reward", "candidate")
    assert fetch(workspace, version).digest == artifact.digest
    (uploaded,) = (folder / "server" / "artifacts").rglob("artifacts/model/weights")
    before = uploaded.stat()
    renewed = Registration(
        model="tiny-reward", stage="reward", artifact=artifact, tags={}, card="renewed"
    )
    packaging.store(renewed, version.source, registered=True)
    assert (uploaded.stat().st_mtime_ns, uploaded.stat().st_ino) == (
        before.st_mtime_ns,
        before.st_ino,
    )
    assert (uploaded.parents[2] / "README.md").read_text() == "renewed"
