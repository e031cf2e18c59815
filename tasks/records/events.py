"""Events of a pipeline run, for listeners such as the terminal display and the log."""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from rlhf_core.stage_catalogue import APPROVAL
from tasks.records.forecast import Forecast
from tasks.records.step_row import StepRow


@dataclass(frozen=True)
class RunStarted:
    """A run has a record from now on."""

    record_id: str


@dataclass(frozen=True)
class StageStarted:
    """A stage has started.

    continues: the run directory of the same work on other ranks, from whose checkpoint it goes on.
    """

    stage: str
    run_dir: Path
    cached: bool = False  # True: a finished run directory was found, nothing runs
    continues: Path | None = None


@dataclass(frozen=True)
class StageProgress:
    """A stage has logged a step."""

    stage: str
    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class ForecastMade:
    """A stage's end is foreseen, by its steps so far."""

    stage: str
    forecast: Forecast


@dataclass(frozen=True)
class StageAborted:
    """A stage process has refused or failed. StepEnded follows, with its row."""

    stage: str
    message: str
    log: Path
    last_lines: list[str]


@dataclass(frozen=True)
class ApprovalAsked:
    """A person is asked for approval."""

    run: str
    until: datetime
    page: str | None  # of Prefect's server with the form; None without a server
    link: str | None  # the evidence in MLflow
    stage: str = APPROVAL


@dataclass(frozen=True)
class StepEnded:
    """A stage has ended and its gates are decided, a person has decided, or promotion is over."""

    row: StepRow  # as the run's record has it

    @property
    def stage(self) -> str:
        """The name of the step."""
        return self.row.name


StepEvent = StageStarted | StageProgress | ForecastMade | StageAborted | ApprovalAsked | StepEnded
Event = RunStarted | StepEvent
Listener = Callable[[Event], None]
_listeners: list[Listener] = []


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` with every event of this process; return the function that ends this."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def emit(event: Event) -> None:
    """Call every listener with `event`."""
    for listener in list(_listeners):
        listener(event)
