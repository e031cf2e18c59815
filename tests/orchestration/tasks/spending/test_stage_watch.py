"""The watch on a running stage, on a run directory whose samples are written by hand."""

import json
import time
from collections.abc import Callable

import pytest

from rlhf_core.errors import LimitReached
from rlhf_core.rundir import STOP
from tasks.execution.resource_usage import FILE
from tasks.records import events
from tasks.records.run_record import Record
from tasks.records.workspace import Workspace
from tasks.run_context import RunContext
from tasks.spending.stage_watch import StageWatch
from tasks.tracking.tracker import tracking


@pytest.fixture
def watched(home, make_recipe) -> Callable[..., StageWatch]:
    """Give a function that watches a stage of a run with limits; its run directory is `run`."""
    workspace, opened = Workspace(home), []

    def begin(stage: str, **limits: float) -> StageWatch:
        recipe = make_recipe(limits=limits)
        record = Record.new(workspace, recipe, "tiny-a-1")
        opened.append(tracking(workspace, record))
        tracker = opened[-1].__enter__()
        (home / "run").mkdir(exist_ok=True)
        tracker.stage_started(stage, home / "run", cached=False)
        watch = StageWatch(RunContext(recipe, workspace, record.id), stage, home / "run")
        watch.EVERY_SECONDS = 0.0
        return watch

    yield begin
    for one in opened:
        one.__exit__(None, None, None)


def take(home, seconds: float) -> None:
    line = {"step": 1, "time": time.time(), "seconds": seconds, "metrics": {}}
    with (home / "run" / FILE).open("a") as file:
        file.write(json.dumps(line) + "\n")


def test_a_stage_with_checkpoints_is_asked_to_stop_once_the_limit_is_reached(home, watched):
    watch = watched("sft", hours=1.0)
    take(home, 3599.0)
    watch()
    assert not (home / "run" / STOP).exists()
    take(home, 2.0)
    watch()
    assert (home / "run" / STOP).exists()
    error = watch.explained(LimitReached("stopped after step 4, with a checkpoint"))
    assert "sft 1). sft stopped after step 4" in str(error) and error.exit_code == 2


def test_a_stage_without_checkpoints_is_ended_unless_it_has_just_finished(home, watched):
    watch = watched("evaluate", hours=1.0)
    take(home, 3700.0)
    with pytest.raises(LimitReached, match="begins anew"):
        watch()
    (home / "run" / "result.json").write_text("{}")
    watch()


def test_time_of_an_earlier_attempt_counts_before_the_stage_starts(home, watched):
    watch = watched("sft", hours=1.0)
    watch.require_within()
    take(home, 3600.0)
    with pytest.raises(LimitReached, match="was not started"):
        watched("sft", hours=1.0).require_within()
    watched("sft", hours=1.1).require_within()


def test_the_first_forecast_is_recorded_and_every_one_is_told(home, watched):
    heard: list[events.Event] = []
    end = events.subscribe(heard.append)
    try:
        watch = watched("sft")
        take(home, 10.0)
        for step in range(1, 7):
            with (home / "run" / "metrics.jsonl").open("a") as file:
                at = time.time() - 60.0 + 10 * step
                line = {"step": step, "steps": 10, "time": at, "metrics": {}}
                file.write(json.dumps(line) + "\n")
            watch()
    finally:
        end()
    found = [event.forecast for event in heard if isinstance(event, events.ForecastMade)]
    assert [one.step for one in found] == [4, 5, 6]
    assert found[-1].left == pytest.approx(40.0, abs=1.0)
    assert watch._tracker.record.stage("sft").forecast == found[0]
