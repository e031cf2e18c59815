"""The account of one step of a run, that every display shows."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlhf_core.gates.decide import Decision, worst_verdict
from rlhf_core.stage_catalogue import STAGES

StepState = Literal["done", "cached", "refused", "failed", "killed", "waiting", "running"]


@dataclass(frozen=True)
class StepRow:
    """One step of a run: a stage, the approval by a person, or the promotion."""

    name: str
    state: StepState
    seconds: float = 0.0
    link: str | None = None  # MLflow page of the stage's run, or of the pipeline's
    metrics: dict[str, float] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    note: str = ""  # what a person decided
    reason: str = ""  # of a failure or a refusal, as it is recorded
    cached: bool = False  # an earlier run had made it; true also of one that is refused now
    run_dir: Path | None = None  # approval and promotion have none
    progress: tuple[int, int] | None = None  # the last training step that was logged, of how many

    @property
    def metric(self) -> str | None:
        """The name of the metric that says how a stage went."""
        return STAGES[self.name].headline_of(self.metrics) if self.name in STAGES else None

    @property
    def value(self) -> float | None:
        """The value of that metric."""
        return self.metrics[self.metric] if self.metric else None

    @property
    def verdict(self) -> str:
        """The worst verdict of the gates, '' without any."""
        return worst_verdict(self.decisions)

    @property
    def error(self) -> str:
        """The reason of a failure without the place and the end of the log, '' of other steps."""
        return self.reason.split("; its log is")[0] if self.state == "failed" else ""
