"""Metrics in MLflow of a stage's time, machine hours and money."""

from mlflow import MlflowClient
from mlflow.entities import Metric, RunTag

from tasks.execution.usage import usage_between
from tasks.records.forecast import Forecast
from tasks.records.run_record import StageRecord


def send_usage(client: MlflowClient, parent: str, stage: StageRecord) -> None:
    """Send to the parent what the stage took of the machine in this run, none if it was cached.

    What an earlier run's attempt took is of that run. So sums over runs count it once.
    """
    assert stage.ended is not None  # the caller closes stages that have ended
    usage = usage_between(stage.run_dir, stage.started, stage.ended)
    if usage is None or stage.cached:
        return
    points = [
        Metric(f"cost/{stage.stage}_{name}", value, stage.ended, 0)
        for name, value in usage.costs.items()
    ]
    client.log_batch(parent, metrics=points, synchronous=True)


def send_forecast(client: MlflowClient, run_id: str, stage: str, forecast: Forecast) -> None:
    """Send the first forecast of a running stage to its run: metrics, and a tag in words."""
    values = {"seconds": forecast.seconds, "money": forecast.money}
    points = [
        Metric(f"cost/{stage}_forecast_{name}", value, forecast.made, forecast.step)
        for name, value in values.items()
        if value is not None
    ]
    tags = [RunTag("forecast", forecast.sentence)]
    client.log_batch(run_id, metrics=points, tags=tags, synchronous=True)
