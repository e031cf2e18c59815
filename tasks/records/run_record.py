"""The record of one pipeline run: a file in the outbox, from which MLflow gets everything."""

import contextlib
import fcntl
import json
import re
import secrets
import time
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Literal

from pydantic import AliasChoices, BaseModel, Field

from rlhf_core.config import Recipe, RecipeFile
from rlhf_core.gates.decide import Decision, worst_verdict
from rlhf_core.rundir import Artifact, StageResult, StageSpec, read_result, write_atomically
from tasks.records.approval_record import ApprovalRecord, VersionApproval
from tasks.records.forecast import Forecast
from tasks.records.heldout_check import HeldoutCheck
from tasks.records.promotion_record import PromotionRecord
from tasks.records.provenance import git_state, hardware, short_commit
from tasks.records.workspace import Workspace

Status = Literal["RUNNING", "FINISHED", "FAILED", "KILLED"]  # MLflow's words
LATEST = re.compile(r"latest(?:~(\d+))?")
ModelKind = Literal["policy", "reward"]  # of a registered model


class StageRecord(BaseModel):
    """One stage of a pipeline run, with the part of it that MLflow has."""

    stage: str
    run_dir: Path
    cached: bool = False
    status: Status = "RUNNING"
    started: int
    ended: int | None = None
    decisions: list[Decision] = []
    limits: list[Decision] = []  # what the run had taken when the stage ended
    forecast: Forecast | None = None  # the first one
    error: str | None = None
    heldout_check: HeldoutCheck | None = None  # the search for leaked prompts, where there was one
    run_id: str | None = None
    offset: int = 0  # bytes of metrics.jsonl that MLflow has
    system_offset: int = 0  # bytes of system.jsonl that MLflow has
    has_forecast: bool = False  # MLflow has the forecast
    closed: bool = False  # MLflow has its end as well

    @property
    def result(self) -> StageResult | None:
        """The result in the run directory, None while the stage is unfinished."""
        return read_result(self.run_dir)

    @property
    def spec(self) -> StageSpec | None:
        """The spec in the run directory, None before the stage has started."""
        file = self.run_dir / "spec.json"
        return (
            StageSpec.model_validate_json(file.read_text(encoding="utf-8"))
            if file.exists()
            else None
        )

    @property
    def verdict(self) -> str:
        """The worst verdict of its gates, and of a limit that it has reached.

        Without a gate it is 'no gate', and before any decision the status of an unfinished stage.
        """
        if self.status != "FINISHED" and not self.verdicts:
            return self.status.lower()
        return worst_verdict(self.verdicts) or "no gate"

    @property
    def verdicts(self) -> list[Decision]:
        """The decisions of its gates, and those on limits that it has reached."""
        return [*self.decisions, *(one for one in self.limits if not one.passed)]


class Registration(BaseModel):
    """A model to register as soon as MLflow answers; `version` is set once it is registered."""

    model: str
    stage: str
    artifact: Artifact
    tags: dict[str, str]
    decisions: list[Decision] = []  # of every gate about these bytes
    note: str = ""  # Markdown, the description of the version
    card: str = ""  # Markdown, README.md beside the weights
    template_date: str | None = None  # that the chat template prints if it asks for the day
    # records of earlier releases call it sign_off
    approval: VersionApproval = Field(
        VersionApproval(), validation_alias=AliasChoices("approval", "sign_off")
    )
    version: str | None = None

    @property
    def kind(self) -> ModelKind:
        """The kind of model, which its name ends with."""
        return "reward" if self.model.endswith("-reward") else "policy"


class Membership(BaseModel):
    """The sweep that a pipeline run belongs to, and this run's values in it."""

    id: str
    name: str
    keys: list[str]  # what the sweep varies
    label: str  # this run's values, e.g. 'ppo.beta=0.1'


# of the runs that start in this context
MEMBERSHIP: ContextVar[Membership | None] = ContextVar("membership", default=None)
# the files that their recipe was read from, its own first; a deployed recipe is in no file
RECIPE_FILES: ContextVar[tuple[RecipeFile, ...]] = ContextVar("recipe_files", default=())


class Record(BaseModel):
    """One pipeline run; times are milliseconds since the epoch."""

    id: str
    name: str
    recipe: dict
    commit: str
    dirty: bool
    hardware: dict[str, str] = {}
    tracking_uri: str
    status: Status = "RUNNING"
    started: int
    ended: int | None = None
    error: str | None = None
    sweep: Membership | None = None
    recipe_files: list[RecipeFile] = []
    approval: ApprovalRecord | None = None
    promotion: PromotionRecord | None = None
    flow_run_id: str | None = None  # in Prefect
    stages: list[StageRecord] = []
    registrations: list[Registration] = []
    report: Path | None = None  # report.html, written when the run ended
    experiment_id: str | None = None
    run_id: str | None = None
    opened: bool = False
    closed: bool = False

    @classmethod
    def new(cls, workspace: Workspace, recipe: Recipe, name: str | None = None) -> "Record":
        """Return the record of a run that starts now; `name` is next_name's by default."""
        commit, dirty = git_state()
        return cls(
            id=f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{secrets.token_hex(3)}",
            name=name or next_name(workspace, recipe),
            recipe=recipe.model_dump(mode="json"),
            commit=commit,
            dirty=dirty,
            hardware=hardware(),
            tracking_uri=workspace.tracking_uri,
            started=now(),
            sweep=MEMBERSHIP.get(),
            recipe_files=list(RECIPE_FILES.get()),
        )

    @property
    def is_waiting(self) -> bool:
        """True if a person was asked and has not answered.

        The process of the run may be gone nevertheless.
        """
        return (
            self.status == "RUNNING"
            and self.approval is not None
            and self.approval.state == "waiting"
        )

    @property
    def decisions(self) -> list[Decision]:
        """The decisions of every gate so far, in the order of the stages."""
        return [decision for stage in self.stages for decision in stage.decisions]

    @property
    def contest(self) -> Decision | None:
        """The contest of the policy with the champion, None before it or without a champion."""
        found = [d for each in self.registrations for d in each.decisions if d.is_contest]
        return found[-1] if found else None

    @property
    def verdicts(self) -> list[Decision]:
        """The decisions of every gate so far, of the latest limits, and of the contest."""
        return [*self.decisions, *self.limits, *([self.contest] if self.contest else [])]

    @property
    def limits(self) -> list[Decision]:
        """The latest decisions on what the run has taken; [] where its recipe limits nothing."""
        return next((stage.limits for stage in reversed(self.stages) if stage.limits), [])

    def decisions_of(self, stage: str) -> list[Decision]:
        """Return the decisions of the gates of one stage."""
        found = self.stage(stage)
        return found.decisions if found else []

    def stage(self, name: str) -> StageRecord | None:
        """Return the record of a stage, None before it has started."""
        return next((stage for stage in self.stages if stage.stage == name), None)

    def send_to(self, tracking_uri: str) -> None:
        """Have everything forwarded to the MLflow at this address, from the beginning.

        What a server at both addresses has already is found again and not doubled.
        """
        self.tracking_uri = tracking_uri
        self.experiment_id = self.run_id = None
        self.opened = self.closed = False
        for stage in self.stages:
            stage.run_id, stage.offset, stage.system_offset = None, 0, 0
            stage.closed = stage.has_forecast = False
        for registration in self.registrations:
            registration.version = None

    def save(self, workspace: Workspace) -> None:
        """Write the record to the outbox of `workspace`, atomically."""
        workspace.outbox.mkdir(parents=True, exist_ok=True)
        write_atomically(workspace.outbox / f"{self.id}.json", self.model_dump_json())


def next_name(workspace: Workspace, recipe: Recipe) -> str:
    """Reserve and return '<recipe>-<commit>-<n>'; n counts this recipe and commit's runs here.

    The name is reserved at once. A run that waits for its turn has no record yet, and the next
    run must not get the same name.
    """
    stem = f"{recipe.name}-{short_commit(git_state()[0])}"
    names = workspace.outbox / "names"
    names.mkdir(parents=True, exist_ok=True)
    number = sum(1 for record in records(workspace) if record["name"].rsplit("-", 1)[0] == stem)
    while True:
        number += 1
        with contextlib.suppress(FileExistsError):
            (names / f"{stem}-{number}").touch(exist_ok=False)
            return f"{stem}-{number}"


def pending(workspace: Workspace) -> list[Path]:
    """Return the files of the records that MLflow does not have in full, oldest first."""
    return sorted(workspace.outbox.glob("*.json"))


def archive(workspace: Workspace, record: Record) -> None:
    """Move a record that MLflow has in full out of the outbox."""
    sent = workspace.outbox / "sent"
    sent.mkdir(exist_ok=True)
    (workspace.outbox / f"{record.id}.json").replace(sent / f"{record.id}.json")
    (workspace.outbox / f"{record.id}.lock").unlink(missing_ok=True)


def records(workspace: Workspace) -> list[dict]:
    """Return every pipeline run of this workspace as JSON values, oldest first.

    The order is that of their starts: the ids of earlier releases begin with a local time.
    """
    files = [*pending(workspace), *(workspace.outbox / "sent").glob("*.json")]
    known = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    return sorted(known, key=lambda record: (record["started"], record["id"]))


def find_records(workspace: Workspace, run: str) -> list[Record]:
    """Return the runs that `run` names: by name, by the beginning of an id, or as 'latest'.

    The id is the run's own or MLflow's. 'latest~1' is the run before the newest, and so on.
    """
    known = records(workspace)
    if back := LATEST.fullmatch(run):
        found = known[::-1][int(back[1] or 0) :][:1]
    else:
        found = [record for record in known if record["name"] == run] or [
            record
            for record in known
            if any(key and key.startswith(run) for key in (record["id"], record.get("run_id")))
        ]
    return [Record.model_validate(record) for record in found]


@contextlib.contextmanager
def record_lock(workspace: Workspace, record_id: str) -> Iterator[bool]:
    """Hold a record's lock; yield False when another process has it, whose run is at work."""
    workspace.outbox.mkdir(parents=True, exist_ok=True)
    with (workspace.outbox / f"{record_id}.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def now() -> int:
    """Return the milliseconds since the epoch."""
    return int(time.time() * 1000)
