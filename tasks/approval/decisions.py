"""The files that carry a person's answer about a policy to the waiting run, and keep the decision.

approvals/<evidence>.json  the decision on exactly this evidence, written once; every later run
                           with the same evidence uses it
approvals/<record>.answer  the answer from `rlhf approve` for the waiting run, which replies with
                           the decision
"""

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

from pydantic import BaseModel, Field

from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.rundir import write_atomically
from tasks.records.approval_record import ApprovalRecord
from tasks.records.file_lock import locked
from tasks.records.run_record import Record, find_records, record_lock, records
from tasks.records.workspace import Workspace

# a waiting run looks twice per second; only an unreachable Prefect server makes it slower
CONFIRM_SECONDS = 60.0
POLL_SECONDS = 0.2
NAME_LENGTH, COMMENT_LENGTH = 200, 2000  # characters; MLflow's tags hold 8000


class Answer(BaseModel):
    """The answer of a person through `rlhf approve`."""

    approve: bool
    by: str
    comment: str = ""
    id: str = Field(default_factory=lambda: secrets.token_hex(8))  # differs between answers


def read_decision(workspace: Workspace, evidence: str) -> ApprovalRecord | None:
    """Return the decision on this evidence, None when there is none."""
    file = _decision_file(workspace, evidence)
    return (
        ApprovalRecord.model_validate_json(file.read_text(encoding="utf-8"))
        if file.exists()
        else None
    )


def record_decision(workspace: Workspace, decided: ApprovalRecord) -> ApprovalRecord:
    """Record a decision unless there is one; return the one that counts, the first."""
    file = _decision_file(workspace, decided.evidence)
    _write_once(file, decided.model_dump_json(indent=2))
    return ApprovalRecord.model_validate_json(file.read_text(encoding="utf-8"))


def read_answer(workspace: Workspace, record_id: str) -> Answer | None:
    """Return the answer that `rlhf approve` has left for a waiting run, None without one."""
    file = _answer_file(workspace, record_id)
    try:
        return Answer.model_validate_json(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None


def remove_answer(workspace: Workspace, record_id: str) -> None:
    """Remove an answer that the run has taken, or that no run will take."""
    _answer_file(workspace, record_id).unlink(missing_ok=True)


def find_run(workspace: Workspace, run: str) -> Record:
    """Return the run that `run` names (see find_records). Raises BadInput."""
    found = find_records(workspace, run)
    if len(found) != 1:
        what = "no run" if not found else f"{len(found)} runs"
        known = [Record.model_validate(record) for record in records(workspace)]
        raise BadInput(
            f"{run!r} names {what} in {workspace.home}; expected a run's name, the beginning of its"
            f" id, or 'latest' ({_who_waits(workspace, known)}; rlhf status lists the runs)."
        )
    return found[0]


def submit(workspace: Workspace, record: Record, answer: Answer) -> ApprovalRecord:
    """Give an answer to a waiting run, and return the decision that the run made of it.

    Raises BadInput when the run does not wait, when somebody else was first, or for a rejection
    without a comment; RLHFError when the run does not confirm.
    """
    check(answer)
    approval = _require_waiting(workspace, record)
    mine = _write_once(_answer_file(workspace, record.id), answer.model_dump_json())
    until = time.monotonic() + CONFIRM_SECONDS
    while time.monotonic() < until:
        alive = is_alive(workspace, record)  # before the look for a decision: sees the last one
        if decided := read_decision(workspace, approval.evidence):
            if decided.answer_id != answer.id:
                _withdraw(workspace, record, answer)
                raise BadInput(
                    f"{record.name} is decided already: {decided.sentence}. Your answer does not"
                    " count."
                )
            return decided
        if not alive:
            _withdraw(workspace, record, answer)
            raise BadInput(
                f"{record.name} ended before it took the answer, so nothing is decided. Run its"
                " recipe again."
            )
        time.sleep(POLL_SECONDS)
    whose = "the answer" if mine else "an answer that somebody gave before"
    raise RLHFError(
        f"{record.name} has not confirmed {whose} within {CONFIRM_SECONDS:.0f} s; it takes it as"
        " soon as its Prefect server answers. See rlhf status."
    )


def check(answer: Answer) -> None:
    """Raise BadInput for an answer without a name, too long, or a rejection without a reason."""
    if not answer.by or len(answer.by) > NAME_LENGTH:
        raise BadInput(
            f"who decides is {answer.by[:40]!r}; expected a name of at most {NAME_LENGTH}"
            " characters: --by NAME."
        )
    if len(answer.comment) > COMMENT_LENGTH:
        raise BadInput(
            f"the comment has {len(answer.comment)} characters; expected at most {COMMENT_LENGTH}."
        )
    if not answer.approve and not answer.comment:
        raise BadInput("a rejection needs its reason: add --comment TEXT.")


def _require_waiting(workspace: Workspace, record: Record) -> ApprovalRecord:
    """Return the request of a run that waits. Raises BadInput when it does not wait."""
    approval = record.approval
    if approval is None:
        known = [Record.model_validate(item) for item in records(workspace)]
        raise BadInput(
            f"{record.name} is not waiting for approval: it has asked nobody "
            f"({_who_waits(workspace, known)})."
        )
    if decided := read_decision(workspace, approval.evidence):
        raise BadInput(f"{record.name} is decided already: {decided.sentence}.")
    if approval.state != "waiting":
        raise BadInput(
            f"{record.name} is not waiting for approval any more: {approval.sentence}. Run its"
            " recipe again."
        )
    if not is_alive(workspace, record):
        raise BadInput(
            f"{record.name} is not waiting for approval any more: it was stopped. Run its recipe"
            " again."
        )
    return approval


def is_alive(workspace: Workspace, record: Record) -> bool:
    """Check whether the run's process is there."""
    if record.status != "RUNNING":
        return False
    with record_lock(workspace, record.id) as free:
        return not free


def _who_waits(workspace: Workspace, known: list[Record]) -> str:
    waiting = [record.name for record in known if record.is_waiting and is_alive(workspace, record)]
    return (
        f"waiting for approval: {', '.join(waiting)}"
        if waiting
        else "no run is waiting for approval"
    )


def _withdraw(workspace: Workspace, record: Record, answer: Answer) -> None:
    left = read_answer(workspace, record.id)
    if left and left.id == answer.id:
        remove_answer(workspace, record.id)


def _decision_file(workspace: Workspace, evidence: str) -> Path:
    return workspace.home / "approvals" / f"{evidence}.json"


def _answer_file(workspace: Workspace, record_id: str) -> Path:
    return workspace.home / "approvals" / f"{record_id}.answer"


def _write_once(path: Path, text: str) -> bool:
    """Write a file unless it is there; return True if it was written.

    One of several processes wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.parent / ".lock"):
        if path.exists():
            return False
        write_atomically(path, text)
        return True


def expired(asked: ApprovalRecord) -> ApprovalRecord:
    """Return the request as one that nobody has answered in time."""
    return asked.model_copy(
        update={"state": "expired", "comment": "no decision in time", "decided_at": now()}
    )


def now() -> datetime:
    """Return the present time, UTC, to the second."""
    return datetime.now(UTC).replace(microsecond=0)
