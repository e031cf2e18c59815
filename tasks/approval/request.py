"""approval: a person says yes or no to a policy that has passed its gates, before it may be
promoted.

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
from rlhf_core.metrics import METRICS
from rlhf_core.rundir import StageResult
from tasks import registration
from tasks.approval import decisions
from tasks.approval.prefect_pause import Form, PausedRun
from tasks.records import events
from tasks.records.approval_record import ApprovalRecord, evidence_digest
from tasks.run_context import Row, Session
from tasks.tracking import rendering
from tasks.tracking.client import brief, report_link, version_page

POLL_SECONDS = 0.5  # between looks at the answer file
PREFECT_SECONDS = 3.0  # between questions to Prefect's server
log = logging.getLogger("rlhf.approval")


@task(task_run_name="approval", cache_policy=NO_CACHE, persist_result=False)
def approval(session: Session, report: Callable[[Session], Path | None]) -> ApprovalRecord:
    """Ask for approval, and wait. Raises GateRefused, after all is recorded, when it is not given
    in time.

    What was decided before on the very same policy, rival and gate records counts again; nobody is
    asked twice. The policy is registered before the question, so that it can be looked at and the
    answer, also a no, stands on its version.
    report: writes the run's report as it stands now.
    """
    started = time.monotonic()
    asked = session.approval = _question(session)
    _note(session, asked)
    registration.register(session)
    _show_report(session, report)
    text = evidence(session)
    create_markdown_artifact(
        text, key="approval", description=f"{asked.run}: may this policy be promoted?"
    )
    earlier = decisions.read_decision(session.workspace, asked.evidence)
    decided = earlier or _ask(session, asked, text)
    session.approval = decided
    _note(session, decided)
    registration.register(session)
    session.tracker.retry()
    seconds, link = time.monotonic() - started, session.tracker.link()
    session.rows.append(
        Row("approval", seconds, None, None, decided.state, link, None, cached=earlier is not None)
    )
    sentence = decided.sentence + (
        f" (decided {decided.decided_at:%Y-%m-%d} on the same evidence, {decided.run})"
        if earlier
        else ""
    )
    events.emit(events.ApprovalDecided(decided.state == "approved", sentence, seconds, link))
    if decided.state != "approved":
        raise GateRefused(sentence)
    return decided


def _show_report(session: Session, report: Callable[[Session], Path | None]) -> None:
    """Write the report that whoever is asked reads, and bring it to MLflow, which may be away;
    asking needs neither.
    """
    try:
        session.tracker.show_report(report(session))
    except Exception as error:
        log.warning("the report for the approval could not be written (%s)", brief(error))


def _question(session: Session) -> ApprovalRecord:
    hours, asked_at = session.recipe.registry.approval.timeout_hours, decisions.now()
    rival = registration.rival(session)
    shown = evidence_digest(
        session.have["policy"].digest, rival.digest if rival else None, session.decisions
    )
    until = asked_at + timedelta(hours=hours)
    return ApprovalRecord(
        evidence=shown, run=session.tracker.record.name, asked_at=asked_at, until=until
    )


def _ask(session: Session, asked: ApprovalRecord, text: str) -> ApprovalRecord:
    paused = PausedRun(text, asked)
    events.emit(events.ApprovalAsked(asked.run, asked.until, paused.page, session.tracker.link()))
    next_look = 0.0
    while True:
        if decided := _outside_prefect(session, asked, paused):
            return decided
        if time.monotonic() >= next_look:
            if form := paused.answer():
                return decisions.record_decision(session.workspace, _by_form(asked, form))
            next_look = time.monotonic() + PREFECT_SECONDS
        session.tracker.tick()
        time.sleep(POLL_SECONDS)


def _outside_prefect(
    session: Session, asked: ApprovalRecord, paused: PausedRun
) -> ApprovalRecord | None:
    """The decision from a file or the clock. Prefect's server arbitrates: what its page took first,
    counts.
    """
    workspace, record_id = session.workspace, session.tracker.record.id
    if decided := decisions.read_decision(
        workspace, asked.evidence
    ):  # given to another run that shows the same
        paused.end(decided)
        return decided
    if decisions.now() >= asked.until:
        return _expired(session, asked, paused)
    answer = decisions.read_answer(workspace, record_id)
    if answer and paused.end(decided := _by_command(asked, answer)):
        decided = decisions.record_decision(workspace, decided)
        decisions.remove_answer(workspace, record_id)
        return decided
    return None


def _expired(session: Session, asked: ApprovalRecord, paused: PausedRun) -> ApprovalRecord:
    """Nobody answered in time, unless Prefect's page took an answer a moment before; no server can
    keep the policy waiting.
    """
    expired = asked.model_copy(
        update={"state": "expired", "comment": "no decision in time", "decided_at": decisions.now()}
    )
    if paused.end(expired) is False:
        with contextlib.suppress(RLHFError):
            if form := paused.answer():
                return decisions.record_decision(session.workspace, _by_form(asked, form))
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


def _note(session: Session, record: ApprovalRecord) -> None:
    session.tracker.record.approval = record
    session.tracker.record.save(session.workspace)


def evidence(session: Session) -> str:
    """Markdown: the model and what it stands against, every gate's verdict, the metrics with
    intervals, MLflow's page.
    """
    rival = registration.rival(session)
    lines = [
        f"## May this policy be promoted? {session.tracker.record.name}",
        f"Policy `{session.have['policy'].digest[:12]}` of recipe **{session.recipe.name}**, "
        + (
            f"to replace champion `{rival.digest[:12]}`."
            if rival
            else "with no champion to replace."
        ),
        _pages(session),
        "### Gates",
        rendering.short_verdict_table(session.decisions),
    ]
    for stage in ("evaluate", "dpo", "reward"):
        if result := session.results.get(stage):
            lines += [f"### Metrics of {stage}", _metric_table(result)]
    lines.append(f"Approve or reject here, or: `rlhf approve {session.tracker.record.name}`")
    return "\n\n".join(lines)


def _pages(session: Session) -> str:
    """Where to read on: the report with curves and replies, the run, the version with its card;
    what MLflow has of them.
    """
    record, link = session.tracker.record, session.tracker.link()
    version = next(
        (item for item in record.registrations if item.kind == "policy" and item.version), None
    )
    links = (
        [f"[report]({report_link(record)})"]
        if report_link(record) and not session.tracker.problem
        else []
    )
    links += [f"[MLflow]({link})"] if link else []
    links += (
        [f"[{version.model} {version.version}]({version_page(record, version)})"] if version else []
    )
    text = (
        "All evidence: " + ", ".join(links) + "."
        if links
        else "MLflow did not answer when this was written."
    )
    return text + (
        f" The report is also `{record.report}` on the machine of the run." if record.report else ""
    )


def _metric_table(result: StageResult) -> str:
    rows = ["| metric | value | 95% interval | n | unit | meaning |\n|---|---|---|---|---|---|"]
    for name, value in result.metrics.items():
        low, high = result.intervals.get(name, (None, None))
        interval = f"{low:.3g} to {high:.3g}" if low is not None else ""
        declared, n = METRICS[name], result.counts.get(name, "")
        rows.append(
            f"| {name} | {value:.4g} | {interval} | {n} | {declared.unit} | {declared.meaning} |"
        )
    return "\n".join(rows)
