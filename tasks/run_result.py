"""The result of a pipeline run, read from its record: the one account for every display."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from rlhf_core.gates.decide import Decision, refused, worst_verdict
from rlhf_core.rundir import new_lines
from rlhf_core.stage_catalogue import PROMOTE, STAGES
from tasks.records.promotion_record import PromotionRecord
from tasks.records.run_record import Record, StageRecord
from tasks.tracking.client import link

StepState = Literal["done", "cached", "refused", "failed", "killed", "waiting", "running"]


@dataclass(frozen=True)
class StepRow:
    """One step of a run: a stage, the approval by a person, or the promotion."""

    name: str
    state: StepState
    seconds: float
    link: str | None  # MLflow page of the stage's run, or of the pipeline's
    metrics: dict[str, float] = field(default_factory=dict)
    decisions: list[Decision] = field(default_factory=list)
    note: str = ""  # what a person decided
    error: str = ""
    run_dir: Path | None = None

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


@dataclass(frozen=True)
class PipelineResult:
    """The result of a run.

    problem: the reason why MLflow has not all of it; `rlhf sync` forwards the rest.
    """

    name: str
    rows: list[StepRow]
    promotion: PromotionRecord | None
    parent_run_id: str | None
    parent_link: str | None
    problem: str | None


def result_of(record: Record, problem: str | None) -> PipelineResult:
    """Return the result of the run with this record."""
    page = link(record, record.run_id)
    return PipelineResult(
        record.name, rows_of(record), record.promotion, record.run_id, page, problem
    )


def rows_of(record: Record) -> list[StepRow]:
    """Return the steps of a run in order, as far as it came."""
    page = link(record, record.run_id)
    rows = [_stage_row(stage, link(record, stage.run_id)) for stage in record.stages]
    if record.approval:
        rows.append(_approval_row(record, page))
    if record.promotion:
        rows.append(StepRow(PROMOTE, "done", record.promotion.seconds, page))
    return rows


def _stage_row(stage: StageRecord, page: str | None) -> StepRow:
    result, stops = stage.result, refused(stage.decisions)
    elapsed = ((stage.ended or stage.started) - stage.started) / 1000
    failed = stage.status == "FAILED" and not stops
    lines = new_lines(stage.run_dir / "metrics.jsonl", 0)[0]
    last_step = lines[-1]["metrics"] if lines else {}
    return StepRow(
        name=stage.stage,
        state="refused" if stops else _state(stage),
        seconds=result.seconds if result else elapsed,
        link=page,
        metrics=last_step | (result.metrics if result else {}),
        decisions=stage.decisions,
        error=(stage.error or "").split("; its log is")[0] if failed else "",
        run_dir=stage.run_dir,
    )


def _state(stage: StageRecord) -> StepState:
    if stage.status == "FINISHED":
        return "cached" if stage.cached else "done"
    states: dict[str, StepState] = {"FAILED": "failed", "KILLED": "killed"}
    return states.get(stage.status, "running")


def _approval_row(record: Record, page: str | None) -> StepRow:
    """Return the approval's row: no time passed where an earlier run's answer counted."""
    asked = record.approval
    assert asked is not None
    earlier = asked.run != record.name
    waited = ((asked.decided_at or asked.asked_at) - asked.asked_at).total_seconds()
    state: StepState = "waiting"
    if asked.state != "waiting":
        state = "done" if asked.state == "approved" else "refused"
    note = asked.sentence_in(record.name)
    return StepRow("approval", state, 0.0 if earlier else waited, page, note=note)
