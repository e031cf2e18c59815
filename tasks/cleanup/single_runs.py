"""Remove single pipeline runs: record, report, run directories that no other run uses, MLflow runs.

A run is kept that something refers to: a version that it made, a version or ledger entry that
names it, a sweep that is not complete; and one that goes on or that MLflow has not in full. A run
that only reused what a version holds goes, and the version's directories stay. MLflow marks its
runs as deleted, from which its page and `mlflow gc` can bring them back or remove them for good.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rlhf_core.errors import BadInput
from rlhf_core.rundir import read_result
from tasks.cleanup.item import size
from tasks.cleanup.references import MADE, NAMED, REUSED, References, gather, inputs_of
from tasks.cleanup.retention import alone, delete, in_use
from tasks.records.run_record import Record, records
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect


@dataclass(frozen=True)
class RunRemoval:
    """The things that go with some runs. kept: run directories that stay, and why."""

    runs: list[Record]
    folders: list[Path]  # run directories and reports
    bytes: int
    kept: dict[Path, str] = field(default_factory=dict)


def plan_removal(
    workspace: Workspace, runs: Sequence[Record], say: Callable[[str], None] = lambda _: None
) -> RunRemoval:
    """Return what is removed with these runs.

    say: prints which other store does not answer. Raises BadInput for a run that something refers
    to, and RLHFError when the workspace's own MLflow store does not answer.
    """
    gone = {record.id for record in runs}
    needed = gather(workspace, say, leaving=gone)
    for record in runs:
        reason = needed.records.get(record.id)
        if reason and reason != REUSED:
            raise BadInput(
                f"{record.name} is not removed: it is {_as_needed(reason)}. Nothing was removed."
            )
    others = [
        Record.model_validate(values) for values in records(workspace) if values["id"] not in gone
    ]
    mine = {stage.run_dir for record in runs for stage in record.stages}
    used = _used_by(workspace, others, needed)
    kept = {
        path: why
        for path in sorted(mine)
        if path.is_dir() and (why := _why_kept(workspace, path, used, needed))
    }
    reports = [path for record in runs for path in _reports(workspace, record)]
    folders = [path for path in sorted(mine) if path.is_dir() and path not in kept] + reports
    return RunRemoval(list(runs), folders, sum(map(size, folders)), kept)


def _as_needed(reason: str) -> str:
    """Return a reason that names what refers to a run, as the end of a sentence about the run."""
    if reason == NAMED:
        return (
            "named by a registered version or the ledger, where lineage and the search for leaks"
            " begin; a later run of the recipe takes its place, if only the version names it"
        )
    if reason.startswith(MADE):
        return (
            f"what made {reason}; delete the version in MLflow first, if neither an alias nor the"
            " ledger needs it"
        )
    if reason.startswith("a run that goes on"):
        return f"{reason}; wait for it, or run rlhf sync"
    return f"part of {reason}" if reason.startswith("a sweep") else reason


def _used_by(workspace: Workspace, others: list[Record], needed: References) -> dict[str, str]:
    """Return the names of the run directories that others use, directly or as inputs, and why."""
    used = dict(needed.runs)
    for record in others:
        for stage in record.stages:
            used.setdefault(stage.run_dir.name, f"used by {record.name}")
    waiting = list(used)
    while waiting:
        name = waiting.pop()
        for other in inputs_of(workspace.runs / name) - used.keys():
            used[other] = f"input of {name}"
            waiting.append(other)
    return used


def _why_kept(
    workspace: Workspace, path: Path, used: dict[str, str], needed: References
) -> str | None:
    if path.parent != workspace.runs or path.is_symlink():
        return "of another workspace"
    if path.name in used:
        return used[path.name]
    if in_use(path):
        return "a stage is running"
    result = read_result(path)
    if result and {item.digest for item in result.outputs.values()} & needed.digests:
        return "a registered version or ledger entry with these bytes"
    return None


def _reports(workspace: Workspace, record: Record) -> list[Path]:
    folder = workspace.home / "reports"
    found = sorted(folder.glob(f"{record.id}-*")) if folder.is_dir() else []
    return [path for path in found if path.is_dir() and not path.is_symlink()]


def remove_runs(workspace: Workspace, plan: RunRemoval) -> None:
    """Remove what the plan names; the record last, so that the same command ends a killed one.

    Raises RLHFError when another process removes things.
    """
    with alone(workspace):
        for path in plan.folders:
            if path.parent == workspace.runs:
                delete(workspace, path)
            else:
                shutil.rmtree(path)
        for record in plan.runs:
            _delete_in_mlflow(record)
            for folder in (workspace.outbox, workspace.outbox / "sent"):
                (folder / f"{record.id}.json").unlink(missing_ok=True)


def _delete_in_mlflow(record: Record) -> None:
    """Mark the MLflow runs of a pipeline run as deleted."""
    client = connect(record.tracking_uri)
    for run_id in (*(stage.run_id for stage in record.stages), record.run_id):
        if run_id and client.get_run(run_id).info.lifecycle_stage == "active":
            client.delete_run(run_id)
