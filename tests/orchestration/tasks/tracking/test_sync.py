"""Waiting records reach an MLflow at another address than the one they were recorded with."""

import shutil

import pytest
from mlflow import MlflowClient
from recipes import tiny_recipe

from tasks.records.run_record import Record, pending
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect
from tasks.tracking.sync import sync
from tasks.tracking.tracker import Tracker

CLOSED = "http://127.0.0.1:9"


def ended_at(workspace: Workspace, address: str) -> Record:
    """Write the record of a run that ended, with an address that MLflow was not at."""
    record = Record.new(workspace, tiny_recipe())
    record.tracking_uri = address
    record.status, record.ended = "FINISHED", record.started + 1000
    record.save(workspace)
    return record


def run_names(uri: str) -> list[str]:
    client = MlflowClient(tracking_uri=uri)
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    return [run.info.run_name for run in client.search_runs(experiments)]


@pytest.mark.parametrize("address", ["localhost:5000", "mlruns"])
def test_a_record_with_an_address_that_no_store_has_goes_to_todays(home, address):
    workspace = Workspace.here()
    record = ended_at(workspace, address)
    report = sync(workspace)
    assert report.forwarded == [record.name] and not report.waiting, report
    assert run_names(workspace.tracking_uri) == [record.name] and pending(workspace) == []


def test_a_record_waits_for_the_server_it_was_recorded_with(home):
    workspace = Workspace.here()
    record = ended_at(workspace, CLOSED)
    assert sync(workspace).waiting == [record.name]
    assert run_names(workspace.tracking_uri) == []


def test_waiting_records_are_sent_to_another_address(home, tmp_path, empty_store):
    workspace = Workspace.here()
    record = ended_at(workspace, CLOSED)
    other = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'other.db')}"
    assert sync(workspace, to=other).forwarded == [record.name]
    assert run_names(other) == [record.name] and run_names(workspace.tracking_uri) == []


def test_what_a_moved_server_has_already_is_not_doubled(home, tmp_path):
    workspace = Workspace.here()
    tracker = Tracker(workspace, Record.new(workspace, tiny_recipe()))
    folder = workspace.runs / "sft-x"
    folder.mkdir(parents=True)
    (folder / "metrics.jsonl").write_text(
        '{"step": 1, "steps": 1, "time": 1.0, "metrics": {"sft/loss": 2.0}}\n'
    )
    tracker.stage_started("sft", folder, cached=False)
    assert tracker.retry(), tracker.problem
    moved = f"sqlite:///{shutil.move(home / 'mlflow.db', tmp_path / 'moved.db')}"
    tracker.record.save(workspace)
    assert sync(workspace, to=moved).forwarded == [tracker.record.name]
    assert sorted(run_names(moved)) == ["sft", tracker.record.name]
    client = connect(moved)
    (run,) = client.search_runs(["1"], "tags.stage = 'sft'")
    assert [p.value for p in client.get_metric_history(run.info.run_id, "sft/loss")] == [2.0]
