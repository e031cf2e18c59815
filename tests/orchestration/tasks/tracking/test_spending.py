"""The use of a stage and its forecast, on the runs of a real store."""

import json

import pytest
from recipes import tiny_recipe
from workspaces import client

from tasks.execution.resource_usage import FILE, GPU_ENERGY, STAGE_CPU
from tasks.records.forecast import Forecast
from tasks.records.run_record import Record, now
from tasks.records.workspace import Workspace
from tasks.tracking.tracker import Tracker


def test_energy_and_the_first_forecast_are_on_the_runs(home):
    workspace, run_dir = Workspace(home), home / "runs" / "ppo-1"
    run_dir.mkdir(parents=True)
    tracker = Tracker(workspace, Record.new(workspace, tiny_recipe(), "tiny-a-1"))
    tracker.stage_started("ppo", run_dir, cached=False)
    metrics = {STAGE_CPU: 200.0, GPU_ENERGY: 7.2e6}
    line = {"step": 1, "time": now() / 1000, "seconds": 1800.0, "metrics": metrics}
    (run_dir / FILE).write_text(json.dumps(line) + "\n")
    foreseen = Forecast(step=4, steps=9, made=now(), seconds=90.0, left=50.0, money=2.0)
    tracker.keep_forecast("ppo", foreseen)
    tracker.stage_ended("ppo", status="FAILED")
    tracker.end("FAILED")
    assert tracker.problem is None
    stage = client(home).get_run(tracker.record.stages[0].run_id).data
    assert stage.metrics["cost/ppo_forecast_seconds"] == 90.0
    assert stage.metrics["cost/ppo_forecast_money"] == 2.0
    assert stage.tags["forecast"] == foreseen.sentence
    parent = client(home).get_run(tracker.record.run_id).data
    assert parent.metrics["cost/ppo_gpu_kwh"] == pytest.approx(2.0)
    assert parent.metrics["cost/ppo_hours"] == pytest.approx(0.5)
    assert parent.metrics["cost/ppo_cpu_hours"] == pytest.approx(1.0)
    assert "cost/ppo_cpu_kwh" not in parent.metrics
