"""The result of a pipeline run, read from its record: the one account for every display."""

from dataclasses import dataclass

from rlhf_core.gates.decide import refused
from rlhf_core.rundir import last_line
from rlhf_core.stage_catalogue import APPROVAL, PROMOTE
from tasks.records.approval_record import ApprovalRecord
from tasks.records.promotion_record import PromotionRecord
from tasks.records.run_record import Record, StageRecord
from tasks.records.step_row import StepRow, StepState
from tasks.tracking.client import link


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
    names = [stage.stage for stage in record.stages]
    names += [APPROVAL] if record.approval else []
    names += [PROMOTE] if record.promotion else []
    return [row_of(record, name) for name in names]


def row_of(record: Record, name: str) -> StepRow:
    """Return one step of a run. Raises KeyError for one that has not begun."""
    page = link(record, record.run_id)
    if name == APPROVAL and record.approval:
        return _approval_row(record, record.approval, page)
    if name == PROMOTE and record.promotion:
        return StepRow(PROMOTE, "done", record.promotion.seconds, page)
    if stage := record.stage(name):
        return _stage_row(stage, link(record, stage.run_id))
    raise KeyError(name)


def _stage_row(stage: StageRecord, page: str | None) -> StepRow:
    result = stage.result
    elapsed = ((stage.ended or stage.started) - stage.started) / 1000
    last = last_line(stage.run_dir / "metrics.jsonl")
    return StepRow(
        name=stage.stage,
        state="refused" if refused(stage.verdicts) else _state(stage),
        seconds=result.seconds if result else elapsed,
        link=page,
        metrics=(last["metrics"] if last else {}) | (result.metrics if result else {}),
        decisions=stage.verdicts,
        reason=stage.error or "",
        cached=stage.cached,
        run_dir=stage.run_dir,
        progress=(last["step"], last["steps"]) if last else None,
    )


def _state(stage: StageRecord) -> StepState:
    if stage.status == "FINISHED":
        return "cached" if stage.cached else "done"
    states: dict[str, StepState] = {"FAILED": "failed", "KILLED": "killed"}
    return states.get(stage.status, "running")


def _approval_row(record: Record, asked: ApprovalRecord, page: str | None) -> StepRow:
    """Return the approval's row: no time passed where an earlier run's answer counted."""
    earlier = asked.run != record.name
    waited = ((asked.decided_at or asked.asked_at) - asked.asked_at).total_seconds()
    state: StepState = "waiting"
    if asked.state != "waiting":
        state = "done" if asked.state == "approved" else "refused"
    note = asked.sentence_in(record.name)
    return StepRow(APPROVAL, state, 0.0 if earlier else waited, page, note=note)
