"""Runs are found in MLflow on every page of its answers."""

import pytest
from mlflow import MlflowClient

from rlhf_core.errors import BadInput
from tasks.analysis import mlflow_runs


def test_a_search_reads_every_page_and_a_limit_only_what_it_needs(tmp_path, monkeypatch):
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("pipelines")
    made = [client.create_run(experiment, start_time=time).info.run_id for time in range(1, 6)]
    monkeypatch.setattr(mlflow_runs, "PAGE", 2)  # runs per answer: 1,000 would take a minute
    latest_first = made[::-1]
    found = [run.info.run_id for run in mlflow_runs.search(client, "")]
    assert found == latest_first
    found = [run.info.run_id for run in mlflow_runs.search(client, "", limit=3)]
    assert found == latest_first[:3]


def test_a_run_whose_artifacts_another_machine_has_is_refused_not_read_as_empty(
    tmp_path, monkeypatch
):
    """Two such runs were told to be the same in everything."""
    client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
    experiment = client.create_experiment("pipelines", artifact_location="file:///nowhere/1")
    run = client.create_run(experiment, run_name="quickstart-1")
    assert mlflow_runs.read(client, run).recipe == {}  # a store of this machine, still empty
    monkeypatch.setattr(MlflowClient, "tracking_uri", "http://mlflow:5000")
    with pytest.raises(BadInput, match=r"run quickstart-1 is on the disk of MLflow's server"):
        mlflow_runs.read(client, run)
