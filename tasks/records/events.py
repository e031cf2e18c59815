"""Events of a pipeline run, for listeners such as the terminal display and the log."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rlhf_core.gates.decide import Decision


@dataclass(frozen=True)
class RunStarted:
    """A run has a record from now on."""

    record_id: str


@dataclass(frozen=True)
class StageStarted:
    """A stage has started."""

    stage: str
    run_dir: Path
    cached: bool = False  # True: a finished run directory was found, nothing runs


@dataclass(frozen=True)
class StageProgress:
    """A stage has logged a step."""

    stage: str
    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StageFinished:
    """A stage has finished, and its gates are decided."""

    stage: str
    seconds: float  # of the stage process when it ran, also when cached
    metrics: dict[str, float]
    decisions: list[Decision] = field(default_factory=list)
    link: str | None = None  # MLflow page of the stage's run
    cached: bool = False


@dataclass(frozen=True)
class StageAborted:
    """A stage process has refused or failed."""

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
    stage: str = "approval"


@dataclass(frozen=True)
class ApprovalDecided:
    """A person has decided, or the time is up."""

    approved: bool
    sentence: str
    seconds: float  # waited
    link: str | None = None  # the evidence in MLflow
    stage: str = "approval"


StageEvent = (
    StageStarted | StageProgress | StageFinished | StageAborted | ApprovalAsked | ApprovalDecided
)
Event = RunStarted | StageEvent
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
