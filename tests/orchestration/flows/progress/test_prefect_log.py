"""The log of a deployed run has a line per step, and no more after the run."""

from pathlib import Path

import pytest

from flows.progress import prefect_log
from tasks.records import events
from tasks.records.events import StageAborted, StageStarted, StepEnded
from tasks.records.step_row import StepRow

STEPS = (
    StageStarted("sft", Path("runs/sft-1")),
    StepEnded(StepRow("sft", "done", 25.0, None, {"sft/heldout_loss": 2.25})),
    StageAborted("ppo", "stage ppo was ended by signal 9", Path("runs/ppo-1/stage.log"), ["oh"]),
)


@pytest.fixture
def lines(monkeypatch) -> list[str]:
    """The messages that the flow run's logger is given at level INFO."""
    found: list[str] = []

    class Logger:
        info = found.append

    monkeypatch.setattr(prefect_log, "get_run_logger", Logger)
    return found


def test_each_step_is_a_line_while_the_run_goes_on(lines):
    with prefect_log.steps_in_log():
        for step in STEPS:
            events.emit(step)
    events.emit(STEPS[0])
    assert lines[:2] == [
        "sft: started, log runs/sft-1/stage.log",
        "sft: done in 25 s; heldout loss 2.25 nats/token",
    ]
    assert "stage ppo was ended by signal 9" in lines[2] and not any("\n" in line for line in lines)
    assert sum("started" in line for line in lines) == 1
