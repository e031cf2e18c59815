"""The Prefect task that asks a person before a policy that has passed its gates is promoted.

The flow run is paused, not suspended: its process stays, asleep, with no stage process and so no
GPU. A suspended run would need a deployment to come back, and one that nobody answers would end on
Prefect's server alone, where no verdict is recorded.
"""

import contextlib
import logging
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE

from rlhf_core.errors import GateRefused, RLHFError
from rlhf_core.stage_catalogue import APPROVAL
from tasks.approval import decisions, server_answer
from tasks.approval.evidence import evidence
from tasks.approval.prefect_pause import Form, PausedRun
from tasks.records import events
from tasks.records.approval_record import ApprovalRecord, evidence_digest
from tasks.registration import register_policy, rival
from tasks.run_context import RunContext, StageOutput
from tasks.run_result import row_of
from tasks.tracking.client import brief

POLL_SECONDS = 0.5  # between looks at the answer file
PREFECT_SECONDS = 3.0  # between questions to Prefect's server
log = logging.getLogger("rlhf.approval")


@task(task_run_name=APPROVAL, cache_policy=NO_CACHE, persist_result=False)
def approval(
    context: RunContext, evaluation: StageOutput, report: Callable[[RunContext], Path | None]
) -> ApprovalRecord:
    """Ask a person to approve the policy, and wait for the answer.

    A decision on the very same policy, rival and gate records counts again; nobody is asked twice.
    On an MLflow server with accounts and approvers, only their accounts can answer.
    The policy is registered before the question: the person can look at it, and the answer, also a
    no, stands on its version.
    report: writes the run's report as it stands now. Raises GateRefused, after all is recorded,
    when approval is not given in time.
    """
    tracker, queue = context.tracker, server_answer.queue_of(context)
    asked = _question(context, evaluation)
    tracker.keep_approval(asked)
    register_policy(context, evaluation)
    _show_report(context, report)
    text = evidence(context, evaluation, by_account=queue is not None)
    create_markdown_artifact(
        text, key=APPROVAL, description=f"{asked.run}: may this policy be promoted?"
    )
    if queue:
        decided = server_answer.answer(context, asked, queue, text)
    else:
        earlier = decisions.read_decision(context.workspace, asked.evidence)
        decided = earlier or _ask(context, asked, text)
    tracker.keep_approval(decided)
    register_policy(context, evaluation)
    tracker.retry()
    events.emit(events.StepEnded(row_of(tracker.record, APPROVAL)))
    if decided.state != "approved":
        raise GateRefused(decided.sentence_in(asked.run))
    return decided


def _show_report(context: RunContext, report: Callable[[RunContext], Path | None]) -> None:
    """Write the report for the person who is asked; asking works without it and without MLflow."""
    try:
        context.tracker.show_report(report(context))
    except Exception as error:
        log.warning("the report for the approval could not be written (%s)", brief(error))


def _question(context: RunContext, evaluation: StageOutput) -> ApprovalRecord:
    asked_at, other = decisions.now(), rival(evaluation)
    shown = evidence_digest(
        evaluation.artifacts["policy"].digest,
        other.digest if other else None,
        context.record.decisions,
    )
    until = asked_at + timedelta(hours=context.recipe.registry.approval.timeout_hours)
    return ApprovalRecord(
        evidence=shown,
        run=context.record.name,
        asked_at=asked_at,
        until=until,
        allow_self=context.recipe.registry.approval.allow_self,
    )


def _ask(context: RunContext, asked: ApprovalRecord, text: str) -> ApprovalRecord:
    paused = PausedRun(text, asked)
    events.emit(events.ApprovalAsked(asked.run, asked.until, paused.page, context.tracker.link()))
    next_look = 0.0
    while True:
        if decided := _outside_prefect(context, asked, paused):
            return decided
        if time.monotonic() >= next_look:
            if form := paused.answer():
                return decisions.record_decision(context.workspace, _by_form(asked, form))
            next_look = time.monotonic() + PREFECT_SECONDS
        context.tracker.tick()
        time.sleep(POLL_SECONDS)


def _outside_prefect(
    context: RunContext, asked: ApprovalRecord, paused: PausedRun
) -> ApprovalRecord | None:
    """Return the decision from a file or the clock.

    Prefect's server arbitrates: what its page took first counts.
    """
    workspace, record_id = context.workspace, context.record_id
    # another run that shows the same may have been answered
    if decided := decisions.read_decision(workspace, asked.evidence):
        paused.end(decided)
        return decided
    if decisions.now() >= asked.until:
        return _expired(context, asked, paused)
    if answer := decisions.read_answer(workspace, record_id):
        by_command = _by_command(asked, answer)
        if paused.end(by_command):
            recorded = decisions.record_decision(workspace, by_command)
            decisions.remove_answer(workspace, record_id)
            return recorded
    return None


def _expired(context: RunContext, asked: ApprovalRecord, paused: PausedRun) -> ApprovalRecord:
    """Return that nobody answered in time, unless Prefect's page took an answer a moment before.

    No server can keep the policy waiting.
    """
    expired = decisions.expired(asked)
    if paused.end(expired) is False:
        with contextlib.suppress(RLHFError):
            if form := paused.answer():
                return decisions.record_decision(context.workspace, _by_form(asked, form))
    return expired


def _by_command(asked: ApprovalRecord, answer: decisions.Answer) -> ApprovalRecord:
    values = {
        "by": answer.by,
        "comment": answer.comment,
        "door": "rlhf approve",
        "answer_id": answer.id,
    }
    return asked.model_copy(update=values | _verdict(answer.approve))


def _by_form(asked: ApprovalRecord, form: Form) -> ApprovalRecord:
    comment = " ".join(form.comment.split()) or ("" if form.approve else "no reason given")
    name = " ".join(form.name.split()) or "somebody without a name"
    return asked.model_copy(
        update={"by": name, "comment": comment, "door": "Prefect"} | _verdict(form.approve)
    )


def _verdict(approve: bool) -> dict:
    return {"state": "approved" if approve else "rejected", "decided_at": decisions.now()}
