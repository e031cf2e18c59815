"""Runs are found in MLflow on every page of its answers."""

from mlflow import MlflowClient

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
