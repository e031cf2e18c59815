"""Forecasts of a run that has not begun, from runs of this workspace with known times."""

import json

import pytest
from recipes import tiny_recipe

from rlhf_core.rundir import StageResult
from tasks.execution.resource_usage import FILE, STAGE_CPU
from tasks.execution.usage import Usage
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace
from tasks.spending.earlier_runs import StageForecast, stage_forecasts

SFT = {"epochs": 3}


def write_run(home, name: str, seconds: float, **values) -> Record:
    """Write a run whose SFT took so long, at half a core."""
    workspace = Workspace(home)
    record = Record.new(workspace, tiny_recipe(**{"sft": SFT} | values), name)
    folder = home / "runs" / f"sft-{name}"
    folder.mkdir(parents=True)
    line = {"step": 1, "time": 9.0, "seconds": seconds, "metrics": {STAGE_CPU: 50.0}}
    (folder / FILE).write_text(json.dumps(line) + "\n")
    result = StageResult(stage="sft", digest=name, seconds=1.0)
    (folder / "result.json").write_text(result.model_dump_json())
    record.stages.append(StageRecord(stage="sft", run_dir=folder, status="FINISHED", started=1))
    record.save(workspace)
    return record


def sft_forecast(home, **values) -> StageForecast:
    found = stage_forecasts(tiny_recipe(**{"sft": SFT} | values), Workspace(home))
    return next(one for one in found if one.stage == "sft")


def test_the_median_of_finished_stages_with_the_same_work_is_the_forecast(home, monkeypatch):
    monkeypatch.delenv("RLHF_PRICES", raising=False)
    (home / "prices.toml").write_text("cpu_hour = 2\n")
    assert sft_forecast(home) == StageForecast("sft")
    for number, seconds in enumerate((7200.0, 3600.0, 10800.0)):
        write_run(home, f"tiny-a-{number}", seconds)
    found = sft_forecast(home)
    assert found.usage == Usage(7200.0, 1.0) and found.money == pytest.approx(2.0)
    assert (found.runs, found.latest) == (3, "tiny-a-2")


def test_what_changes_no_time_is_no_other_work_and_what_does_is(home):
    write_run(home, "tiny-a-0", 60.0)
    assert sft_forecast(home, seed=7, sft={"epochs": 3, "lr": 1e-3}).runs == 1
    assert sft_forecast(home, sft={"epochs": 4}).runs == 0
    assert sft_forecast(home, distributed={"ranks": 2}).runs == 0


def test_other_machines_unfinished_stages_and_copies_count_nothing(home):
    record = write_run(home, "tiny-a-0", 60.0)
    record.model_copy(update={"id": "again", "name": "tiny-a-1"}).save(Workspace(home))
    found = sft_forecast(home)  # a run that took the stage from the first one
    assert (found.runs, found.usage) == (1, Usage(60.0, pytest.approx(60.0 / 7200)))
    for name in (record.id, "again"):
        changed = record.model_copy(update={"id": name, "hardware": {"cores": "1000"}})
        changed.save(Workspace(home))
    assert sft_forecast(home).runs == 0
    (write_run(home, "tiny-a-2", 60.0).stages[0].run_dir / "result.json").unlink()
    assert sft_forecast(home).runs == 0


def test_a_stage_that_the_recipe_does_not_make_is_not_foreseen(home):
    recipe = tiny_recipe(model={"base": str(home), "sft": "sft"})
    found = stage_forecasts(recipe, Workspace(home))
    assert [one.stage for one in found] == ["validate", "reward", "ppo", "evaluate"]
