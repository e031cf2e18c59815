"""sync: send MLflow what it missed of the pipeline runs that have ended."""

from dataclasses import dataclass

from tasks.records.run_record import Record, StageRecord, now, pending, record_lock
from tasks.records.workspace import Workspace
from tasks.tracking.address import is_address, redacted
from tasks.tracking.client import brief, connect
from tasks.tracking.forwarder import Forwarder


@dataclass(frozen=True)
class SyncReport:
    """The names of the runs that MLflow now has in full, and of those that still wait.

    problem: why they wait.
    """

    forwarded: list[str]
    waiting: list[str]
    problem: str | None = None

    def __str__(self) -> str:
        done = ", ".join(self.forwarded) or "nothing was waiting"
        return (
            f"{done}; still waiting: {', '.join(self.waiting)} ({self.problem})"
            if self.waiting
            else done
        )


def sync(workspace: Workspace | None = None, *, to: str | None = None) -> SyncReport:
    """Forward every record of the outbox whose pipeline has ended; raise nothing of MLflow's.

    to: the address to send them to, in place of the one that each was recorded with.
    """
    workspace = workspace or Workspace.here()
    forwarded: list[str] = []
    waiting: list[str] = []
    problem: str | None = None
    dead: set[str] = set()  # addresses that do not answer
    for file in pending(workspace):
        with record_lock(workspace, file.stem) as free:
            if not free or not file.exists():
                continue
            record = _ended(Record.model_validate_json(file.read_text(encoding="utf-8")))
            if (address := present_address(workspace, record.tracking_uri, to)) is not None:
                record.send_to(address)
            try:
                if record.tracking_uri in dead:
                    raise ConnectionError(f"{redacted(record.tracking_uri)} does not answer")
                Forwarder(workspace, record).forward()
                forwarded.append(record.name)
            except Exception as error:
                waiting.append(record.name)
                problem = problem or brief(error)
                dead |= set() if _answers(record.tracking_uri) else {record.tracking_uri}
    return SyncReport(forwarded, waiting, problem)


def present_address(workspace: Workspace, recorded: str, to: str | None) -> str | None:
    """Return the address to send a record to, None where that is the one it was recorded with.

    Where no store has that one, it is the workspace's address of today.
    """
    wanted = to or (recorded if is_address(recorded) else workspace.tracking_uri)
    return wanted if wanted != recorded else None


def _answers(uri: str) -> bool:
    try:
        connect(uri).search_experiments(max_results=1)
    except Exception:
        return False
    return True


def _ended(record: Record) -> Record:
    """Mark what is still RUNNING as KILLED: the process of this record is gone."""
    parts: list[Record | StageRecord] = [record, *record.stages]
    for part in parts:
        if part.status == "RUNNING":
            part.status, part.ended = "KILLED", now()
            part.error = "The process that ran this pipeline was killed."
    return record
