"""The outcome of a round, read from the record of its pipeline run."""

import re
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.config.decidable import samples_needed
from rlhf_core.gates.decide import refused
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import ALIGNMENTS, APPROVAL, NEW_HELDOUT, REWARD, VALIDATE
from tasks.iterate.iteration import Iteration, IterationRound, RoundLabels, RoundOutcome
from tasks.records.run_record import Record, records
from tasks.records.workspace import Workspace
from tasks.sweeps.sweep import metrics_of, state_of
from tasks.tracking.client import link


def newest_record(workspace: Workspace, iteration: Iteration, number: int) -> Record | None:
    """Return the newest pipeline run of a round on the labels that are there; None before it.

    A run on other labels is of a loop whose folder was removed.
    """
    member = iteration.membership(number)
    files = iteration.label_files(workspace, number)
    for values in reversed(records(workspace)):
        sweep = values.get("sweep") or {}
        if (sweep.get("id"), sweep.get("label")) == (member.id, member.label):
            record = Record.model_validate(values)
            if _has_read(record, files):
                return record
    return None


def _has_read(record: Record, files: list[Path]) -> bool:
    """Return True if the last new comparisons of a run are these files, by their bytes."""
    if not files:
        return True
    validated = record.stage(VALIDATE.name)
    spec = validated.spec if validated else None
    first = len(record.recipe["data"].get(NEW_COMPARISONS, ())) - len(files) + 1
    read = spec.inputs if spec else {}
    names = [f"{NEW_COMPARISONS}_{number}" for number in range(first, first + len(files))]
    return all(
        name in read and read[name].digest == Artifact.of(file).digest
        for name, file in zip(names, files, strict=True)
    )


def has_outcome(record: Record | None) -> bool:
    """Return True for a run that ended with a verdict on its policy, and need not be repeated.

    It finished, a gate or a person refused it, or a gate has too few new pairs to decide on. Other
    refusals, such as aliases that were moved by hand, say nothing about the policy.
    """
    if record is None:
        return False
    return state_of(record) != "failed" or _is_rejected(record) or bool(undecided_gates(record))


def _is_rejected(record: Record) -> bool:
    return record.approval is not None and record.approval.state == "rejected"


def undecided_gates(record: Record) -> list[str]:
    """Return the gates, as 'stage.gate', for which a run has held out too few new pairs.

    Such a run ends after its data were read. The labels of later rounds may be enough.
    """
    last = record.stages[-1] if record.stages else None
    result = last.result if last and last.stage == VALIDATE.name else None
    if record.status != "FAILED" or result is None:
        return []
    found = result.metrics.get(f"{VALIDATE.metric_prefix}/{NEW_HELDOUT}")
    return [
        f"{stage}.{re.findall(r'[a-z0-9_]+', gate)[-1]}"
        for gate, stage, split, least in samples_needed(Recipe.model_validate(record.recipe))
        if split == NEW_HELDOUT and found is not None and found < least
    ]


def round_of(
    record: Record, number: int, labels: RoundLabels | None, champion: str | None
) -> IterationRound:
    """Return a round that has ended. champion: the digest of the policy that is champion now."""
    outcome, reason = _outcome(record)
    return IterationRound(
        number=number,
        outcome=outcome,
        reason=reason,
        refused_by=[] if outcome == "promoted" else _refused_by(record),
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


def _refused_by(record: Record) -> list[str]:
    gates = [
        "contest" if decision.is_contest else f"{decision.stage}.{decision.gate}"
        for decision in refused(record.verdicts)
    ]
    return [*gates, *undecided_gates(record), *([APPROVAL] if _is_rejected(record) else [])]


def _outcome(record: Record) -> tuple[RoundOutcome, str]:
    if record.status != "FINISHED":
        later = " The labels of later rounds may be enough." if undecided_gates(record) else ""
        return "refused", (record.error or "") + later
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
