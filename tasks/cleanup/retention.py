"""Remove old run directories, checkpoints of finished stages, reports and cached results.

A run directory is a cache, so removing one costs a repetition at most. Directories that a version,
an alias, a ledger entry or a run that can continue needs are kept at any age. Only names that this
project gives are removed, and no link is followed.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from rlhf_core.errors import RLHFError
from rlhf_core.rundir import CHECKPOINTS, TOKENS, read_result
from tasks.cleanup.caches import cached_items, is_cached, unused
from tasks.cleanup.item import DAY, Item, last_change, size
from tasks.cleanup.references import RUN_DIR, References, gather, inputs_of, open_runs
from tasks.records.run_record import Record, records
from tasks.records.workspace import Workspace

TRASH = ".gc-"
_REPORT = re.compile(r"(\d{8}-\d{6}-[0-9a-f]{6})-.+")


@dataclass(frozen=True)
class Kept:
    """A run directory that is kept, and why."""

    path: Path
    why: str
    bytes: int


@dataclass(frozen=True)
class RemovalPlan:
    """The items to remove, and the run directories to keep."""

    remove: list[Item]
    keep: list[Kept]


def plan(
    workspace: Workspace, older_than_days: float, say: Callable[[str], None] = lambda _: None
) -> RemovalPlan:
    """Return what is older than `older_than_days` and without a reference.

    say: prints which store does not answer. Raises RLHFError when the workspace's own MLflow store
    does not answer.
    """
    known = [Record.model_validate(values) for values in records(workspace)]
    needed = gather(workspace, say)
    ages = {path: _days(path, known) for path in _run_dirs(workspace)}
    keep = _kept(ages, needed, older_than_days)
    remove = [
        Item(path, "run directory", days, size(path))
        for path, days in ages.items()
        if path not in keep
    ]
    remove += list(_leftovers(ages, keep, older_than_days))
    remove += list(_reports(workspace, needed, older_than_days))
    remove += list(cached_items(workspace, older_than_days))
    return RemovalPlan(remove, [Kept(path, why, size(path)) for path, why in keep.items()])


def remove(workspace: Workspace, plan: RemovalPlan, older_than_days: float) -> list[Item]:
    """Remove the items of the plan that are still unused; return the items that were removed.

    A directory is renamed first, so that a kill leaves nothing that looks finished or resumable.
    Raises RLHFError when another process is removing.
    """
    with alone(workspace):
        for left in (workspace.runs).glob(f"{TRASH}*"):
            shutil.rmtree(left)
        return [item for item in plan.remove if _removed(workspace, item, older_than_days)]


def _run_dirs(workspace: Workspace) -> list[Path]:
    found = sorted(workspace.runs.iterdir()) if workspace.runs.is_dir() else []
    return [
        path
        for path in found
        if RUN_DIR.fullmatch(path.name) and path.is_dir() and not path.is_symlink()
    ]


def _days(path: Path, known: list[Record]) -> float:
    """Return the days since anything in the directory changed or a run used it."""
    used = [
        (record.ended or record.started) / 1000
        for record in known
        for stage in record.stages
        if stage.run_dir.name == path.name
    ]
    return (time.time() - max([last_change(path), *used])) / DAY


def _kept(ages: dict[Path, float], needed: References, older_than_days: float) -> dict[Path, str]:
    """Return the directories to keep with the reason, and those that they took inputs from."""
    keep = {
        path: why
        for path, days in ages.items()
        if (why := _why_kept(path, days, needed, older_than_days))
    }
    by_name = {path.name: path for path in ages}
    todo = list(keep)
    while todo:
        path = todo.pop()
        for name in inputs_of(path):
            other = by_name.get(name)
            if other is not None and other not in keep:
                keep[other] = f"input of {path.name}"
                todo.append(other)
    return keep


def _why_kept(path: Path, days: float, needed: References, older_than_days: float) -> str | None:
    if path.name in needed.runs:
        return needed.runs[path.name]
    if in_use(path):
        return "a stage is running"
    try:
        result = read_result(path)
    except ValueError as error:
        return f"its result.json cannot be read ({type(error).__name__})"
    if result is None and not (path / "failure.json").exists():
        return "unfinished: the same recipe resumes it"
    if result and {item.digest for item in result.outputs.values()} & needed.digests:
        return "a registered version or ledger entry with these bytes"
    return f"used {days:.0f} days ago" if days < older_than_days else None


def _leftovers(
    ages: dict[Path, float], keep: dict[Path, str], older_than_days: float
) -> Iterator[Item]:
    """Yield what served finished stages to resume: a kill between result and clean-up leaves it."""
    for path, name in product(keep, (CHECKPOINTS, TOKENS)):
        folder = path / name
        if ages[path] < older_than_days or not folder.is_dir() or folder.is_symlink():
            continue
        with contextlib.suppress(ValueError):
            result = read_result(path)
            if result and not any(folder in item.path.parents for item in result.outputs.values()):
                yield Item(folder, f"{name} of a finished stage", ages[path], size(folder))


def _reports(workspace: Workspace, needed: References, older_than_days: float) -> Iterator[Item]:
    folder = workspace.home / "reports"
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = _REPORT.fullmatch(path.name)
        is_page = path.suffix == ".html" and path.is_file()
        if (
            path.is_symlink()
            or not (is_page or (match and path.is_dir()))
            or (match and match[1] in needed.records)
        ):
            continue
        days = (time.time() - last_change(path)) / DAY
        if days >= older_than_days:
            yield Item(path, "report", days, size(path))


@contextlib.contextmanager
def alone(workspace: Workspace) -> Iterator[None]:
    """Let one process remove things at a time. Raises RLHFError for a second one."""
    with (workspace.home / ".gc.lock").open("w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RLHFError(
                f"another rlhf gc is at work in {workspace.home}; wait for it."
            ) from None
        yield


def in_use(path: Path) -> bool:
    """Return True while a stage works in a run directory."""
    with run_dir_lock(path) as free:
        return not free


@contextlib.contextmanager
def run_dir_lock(run_dir: Path) -> Iterator[bool]:
    """Lock a run directory as a running stage does; yield False when a stage holds the lock."""
    file = run_dir / ".lock"
    if not file.exists():
        yield True
        return
    with file.open(encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True


def _removed(workspace: Workspace, item: Item, older_than_days: float) -> bool:
    if not item.path.exists() or workspace.home not in item.path.parents:
        return False
    check = unused if is_cached(workspace, item.path) else _unlocked
    with check(workspace, item.path, older_than_days) as free:
        if free:
            delete(workspace, item.path)
        return free


@contextlib.contextmanager
def _unlocked(workspace: Workspace, path: Path, older_than_days: float) -> Iterator[bool]:
    """Yield True while no stage holds the lock of the path's run directory, and no run needs it."""
    run_dir = path if path.parent == workspace.runs else path.parent
    with run_dir_lock(run_dir) as free:  # a run records a directory before it uses it
        yield (
            free
            and run_dir.name not in open_runs(workspace)
            and (time.time() - last_change(path)) / DAY >= older_than_days
        )


def delete(workspace: Workspace, path: Path) -> None:
    """Delete a file or folder; a folder is renamed first, so that a kill leaves nothing half."""
    if path.is_dir():
        trash = workspace.runs / f"{TRASH}{os.getpid()}-{path.name}"
        workspace.runs.mkdir(exist_ok=True)
        path.rename(trash)
        shutil.rmtree(trash)
    else:
        path.unlink()
