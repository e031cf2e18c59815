"""What happens in a pipeline, told to whoever listens (the terminal display, the log)."""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from rlhf_core.gates.decide import Decision


@dataclass(frozen=True)
class StageStarted:
    stage: str
    run_dir: Path
    cached: bool = False  # True: a finished run directory was found, nothing runs


@dataclass(frozen=True)
class StageProgress:
    stage: str
    step: int
    steps: int
    metrics: dict[str, float]


@dataclass(frozen=True)
class StageFinished:
    stage: str
    seconds: float  # of the stage process when it ran, also when cached
    metrics: dict[str, float]
    decisions: list[Decision] = field(default_factory=list)
    link: str | None = None  # MLflow page of the stage's run
    cached: bool = False


@dataclass(frozen=True)
class StageAborted:
    stage: str
    message: str
    log: Path
    last_lines: list[str]


@dataclass(frozen=True)
class ApprovalAsked:
    run: str
    until: datetime
    page: str | None  # where Prefect's server asks; None without a server
    link: str | None  # the evidence in MLflow
    stage: str = "approval"


@dataclass(frozen=True)
class ApprovalDecided:
    approved: bool
    sentence: str
    seconds: float  # waited
    link: str | None = None  # the evidence in MLflow
    stage: str = "approval"


@dataclass(frozen=True)
class ReportWritten:
    path: Path  # of the run's HTML report


Event = (
    StageStarted
    | StageProgress
    | StageFinished
    | StageAborted
    | ApprovalAsked
    | ApprovalDecided
    | ReportWritten
)
Listener = Callable[[Event], None]
_listeners: list[Listener] = []


def subscribe(listener: Listener) -> Callable[[], None]:
    """Call `listener` with every event of this process; returns the function that ends it."""
    _listeners.append(listener)
    return lambda: _listeners.remove(listener)


def emit(event: Event) -> None:
    """Tell every listener."""
    for listener in list(_listeners):
        listener(event)
