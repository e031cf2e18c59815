"""The outcome of a round, read from the record of its pipeline run."""

from rlhf_core.gates.decide import refused
from rlhf_core.stage_catalogue import ALIGNMENTS, REWARD
from tasks.iterate.iteration import Iteration, IterationRound, RoundLabels, RoundOutcome
from tasks.records.run_record import Record, records
from tasks.records.workspace import Workspace
from tasks.sweeps.sweep import metrics_of, state_of
from tasks.tracking.client import link


def newest_record(workspace: Workspace, iteration: Iteration, number: int) -> Record | None:
    """Return the newest pipeline run of a round; None before the first."""
    member = iteration.membership(number)
    for values in reversed(records(workspace)):
        sweep = values.get("sweep") or {}
        if (sweep.get("id"), sweep.get("label")) == (member.id, member.label):
            return Record.model_validate(values)
    return None


def is_settled(record: Record | None) -> bool:
    """Return True for a run that finished or was refused by a gate, and need not be repeated."""
    return record is not None and state_of(record) != "failed"


def round_of(
    record: Record, number: int, labels: RoundLabels | None, champion: str | None
) -> IterationRound:
    """Return a round that has ended. champion: the digest of the policy that is champion now."""
    outcome, reason = _outcome(record)
    stops = [] if outcome == "promoted" else refused(record.verdicts)
    return IterationRound(
        number=number,
        outcome=outcome,
        reason=reason,
        refused_by=[
            "contest" if decision.is_contest else f"{decision.stage}.{decision.gate}"
            for decision in stops
        ],
        run=record.name,
        record_id=record.id,
        link=link(record, record.run_id),
        labels=labels,
        metrics=metrics_of(record),
        policy=_made(record, *ALIGNMENTS),
        reward=_made(record, REWARD.name),
        champion=champion,
        seconds=((record.ended or record.started) - record.started) / 1000,
    )


def _outcome(record: Record) -> tuple[RoundOutcome, str]:
    if record.status != "FINISHED":
        return "refused", record.error or ""
    if record.promotion is None:
        return "not promoted", record.error or "nothing was registered"
    outcome: RoundOutcome = "promoted" if record.promotion.promoted else "not promoted"
    return outcome, record.promotion.reason


def _made(record: Record, *stages: str) -> str | None:
    """Return the digest of the model that the first of these stages has made."""
    for name in stages:
        stage = record.stage(name)
        result = stage.result if stage else None
        if result and "model" in result.outputs:
            return result.outputs["model"].digest
    return None
