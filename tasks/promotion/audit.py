"""The account of who decided what about the models of a registry, oldest first.

Attempts to move a champion are entries of the ledger, and each holds its contest. Approvals and
overridden gates are in the tags of the versions that they are about, with the time at which the
version was made. So is a contest that no attempt has come to.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rlhf_core.gates.contest_evidence import CONTEST
from rlhf_core.live.verdict import LiveVerdict
from tasks.promotion.champions import KINDS
from tasks.promotion.ledger import Ledger, LedgerEntry
from tasks.promotion.ledger_chain import chain_problem
from tasks.promotion.looks import ContestOutcome, describe
from tasks.records.approval_record import ApprovalRecord
from tasks.registry.versions import CANDIDATE_OF, COPIED_FROM
from tasks.tracking.pages import model_versions, registered_models

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class AuditEvent:
    """One decision about a version; time is UTC.

    event: promote, rollback, recover, propose, approval, override, contest or live gate. by: who
    decided, '' where the pipeline decided by its rules. identity: 'account' where MLflow's server
    had authenticated it, 'declared' for a name that nobody checked, '' without one. evidence: a
    digest: of the weights for an attempt, of the items that it was decided on for a contest (of the
    evaluation where an earlier release kept none), of the ids of the replies for a live gate, of
    what a person saw for an approval, of the gate records otherwise.
    """

    time: datetime
    event: str
    model: str
    version: str
    by: str
    outcome: str
    reason: str
    evidence: str
    identity: str


@dataclass(frozen=True)
class Audit:
    """The events of every registry name, oldest first, and what is wrong with the ledgers."""

    events: list[AuditEvent]
    problems: list[str]


def audit(client: "MlflowClient", since: datetime | None = None) -> Audit:
    """Return the events since a time (UTC; None: all), oldest first."""
    models = {model.name for model in registered_models(client)}
    events: list[AuditEvent] = []
    problems: list[str] = []
    contested: set[tuple[str, str]] = set()
    for name in sorted(model.removesuffix("-ledger") for model in models if _is_ledger(model)):
        entries = Ledger(client, name).entries()
        for entry in entries:
            events += _of_entry(entry)
            contested |= {(entry.model, entry.version)} if entry.contest else set()
        if problem := chain_problem(entries):
            problems.append(f"{name}: {problem}")
    for model in sorted(models):
        if model.endswith(tuple(f"-{kind}" for kind in KINDS)):
            for version in model_versions(client, f"name = '{model}'"):
                events += _of_version(version)
                if (model, str(version.version)) not in contested:
                    events += _of_unoffered_contest(version)
    chosen = [event for event in _once(events) if since is None or event.time >= since]
    return Audit(sorted(chosen, key=lambda event: event.time), problems)


def _is_ledger(model: str) -> bool:
    return model.endswith("-ledger")


def state_of(entry: LedgerEntry) -> str:
    """Return the outcome of an entry, or 'at work' or 'killed' without one."""
    return entry.outcome or ("at work" if entry.is_live else "killed")


def notes_of(entry: LedgerEntry) -> str:
    """Return why an entry ended as it did, and what was overridden, approved or adopted."""
    override = f"contest overridden: {entry.contest_override}" if entry.contest_override else ""
    adopted = f"adopted: {entry.adopted}" if entry.adopted else ""
    reason = entry.outcome_reason or entry.reason
    return "; ".join(filter(None, [reason, override, entry.approved, adopted]))


def _once(events: list[AuditEvent]) -> list[AuditEvent]:
    """Return the events, of approvals on the same evidence only the one that a server has signed.

    The version's tag holds the request, or what a run has read of the answer.
    """
    signed = {e.evidence for e in events if e.event == "approval" and e.identity == "account"}
    found: dict[AuditEvent, None] = {}
    for event in events:
        unsigned = event.event == "approval" and event.identity != "account"
        if not (unsigned and event.evidence in signed):
            found[event] = None
    return list(found)


def _of_entry(entry: LedgerEntry) -> Iterator[AuditEvent]:
    """Yield an attempt, its contest, its live gate, and the approval found on the server."""
    yield AuditEvent(
        entry.time,
        entry.action,
        entry.model,
        entry.version,
        entry.by,
        state_of(entry),
        notes_of(entry),
        entry.digest,
        entry.identity,
    )
    if entry.contest:
        yield _of_contest(entry, entry.contest)
    if entry.live:
        yield _of_live_gate(entry, entry.live)
    if entry.approval and entry.action != "propose":  # which the pipeline's account writes
        yield _of_approval(entry.approval, entry.model, entry.version)


def _of_contest(entry: LedgerEntry, contest: ContestOutcome) -> AuditEvent:
    reason = f"{describe(contest)}; contest {contest.look} on these held-out prompts"
    if contest.rule:
        reason += f"; rule: {contest.rule}"
    return AuditEvent(
        entry.time,
        "contest",
        entry.model,
        entry.version,
        entry.by,
        "passed" if contest.passed else "refused",
        reason,
        contest.items or contest.evaluation,
        entry.identity,
    )


def _of_live_gate(entry: LedgerEntry, verdict: LiveVerdict) -> AuditEvent:
    return AuditEvent(
        entry.time,
        "live gate",
        entry.model,
        entry.version,
        entry.by,
        verdict.decision,
        verdict.reason,
        verdict.replies,
        entry.identity,
    )


def _of_approval(asked: ApprovalRecord, model: str, version: str) -> AuditEvent:
    return AuditEvent(
        asked.decided_at or asked.asked_at,
        "approval",
        model,
        version,
        asked.by or "",
        asked.state,
        asked.comment,
        asked.evidence,
        asked.identity if asked.by else "",
    )


def _of_version(version: "ModelVersion") -> Iterator[AuditEvent]:
    """Yield the approval and the overridden gates of a version.

    A promoter's copy of a candidate has nothing of its own. The tags of a candidate are written by
    the pipeline's account, so that they authenticate nobody.
    """
    if COPIED_FROM in version.tags:
        return
    tags, made = version.tags, datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    about, records = (version.name, str(version.version)), tags.get("gates_digest", "")
    for gate, override in json.loads(tags.get("overrides", "{}")).items():
        reason = f"{gate}, threshold {override['threshold']:g}: {override['reason']}"
        what = ("overridden", reason, records, "declared")
        yield AuditEvent(made, "override", *about, override["by"], *what)
    if "approval" in tags:
        asked = ApprovalRecord.model_validate_json(tags["approval"])
        declared = {"identity": "declared"} if CANDIDATE_OF in tags else {}
        yield _of_approval(asked.model_copy(update=declared), *about)


def _of_unoffered_contest(version: "ModelVersion") -> Iterator[AuditEvent]:
    """Yield the contest of a version that no entry of the ledger has recorded, by its tags.

    The run was stopped before its promotion, or an earlier release has promoted it.
    """
    contest = json.loads(version.tags.get("verdicts", "{}")).get(".".join(CONTEST))
    if COPIED_FROM in version.tags or not contest:
        return
    made = datetime.fromtimestamp(version.creation_timestamp / 1000, UTC)
    reason = f"{contest['reason']}; by the version's tag, the ledger holds none"
    records = version.tags.get("gates_digest", "")
    about = (version.name, str(version.version), "")
    yield AuditEvent(made, "contest", *about, contest["verdict"], reason, records, "")
