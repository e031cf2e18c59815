"""The account of who decided what about the models of a registry, oldest first.

Attempts to move a champion are entries of the ledger. Approvals, overridden gates and contests are
in the tags of the versions that they are about, with the time at which the version was made.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from rlhf_core.gates.contest_evidence import CONTEST
from tasks.promotion.champions import KINDS
from tasks.promotion.ledger import Ledger, LedgerEntry
from tasks.promotion.ledger_chain import chain_problem
from tasks.records.approval_record import ApprovalRecord
from tasks.registry.versions import CANDIDATE_OF, COPIED_FROM

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

PAGE = 1000


@dataclass(frozen=True)
class AuditEvent:
    """One decision about a version; time is UTC.

    event: promote, rollback, recover, propose, approval, override or contest. by: who decided, ''
    where the pipeline decided by its rules. identity: 'account' where MLflow's server had
    authenticated it, 'declared' for a name that nobody checked, '' without one. evidence: a digest:
    of the weights for an attempt, of what a person saw for an approval, of the gate records
    otherwise.
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
    models = {model.name for model in client.search_registered_models(max_results=PAGE)}
    events: list[AuditEvent] = []
    problems: list[str] = []
    for name in sorted(model.removesuffix("-ledger") for model in models if _is_ledger(model)):
        entries = Ledger(client, name).entries()
        for entry in entries:
            events += _of_entry(entry)
        if problem := chain_problem(entries):
            problems.append(f"{name}: {problem}")
    for model in sorted(models):
        if model.endswith(tuple(f"-{kind}" for kind in KINDS)):
            for version in client.search_model_versions(f"name = '{model}'", PAGE):
                events += _of_version(version)
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
    """Yield an attempt, and the approval that a promoter has found on MLflow's server."""
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
    if entry.approval and entry.action != "propose":  # which the pipeline's account writes
        yield _of_approval(entry.approval, entry.model, entry.version)


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
    """Yield the approval, the overridden gates and the contest of a version.

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
    contest = json.loads(tags.get("verdicts", "{}")).get(".".join(CONTEST))
    if contest:
        yield AuditEvent(
            made, "contest", *about, "", contest["verdict"], contest["reason"], records, ""
        )
    if "approval" in tags:
        asked = ApprovalRecord.model_validate_json(tags["approval"])
        declared = {"identity": "declared"} if CANDIDATE_OF in tags else {}
        yield _of_approval(asked.model_copy(update=declared), *about)
