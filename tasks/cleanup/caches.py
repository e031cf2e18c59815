"""The caches of a workspace beside its run directories, and what in them nobody has used lately.

runs/benchmarks/*.json  results of models on benchmarks
versions/<digest12>/    files of registered versions that were fetched from a server
objects/<digest16>/     data and models that were fetched from an object store
heldout/*.jsonl         held-out splits without the prompts that a model was trained on

A run makes each anew when it needs it. Its time is that of its last use. What changed within the
last hour stays at any limit, since a run that has just made it may not have recorded its use.
"""

import contextlib
import re
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf_core.rundir import BENCHMARK_RESULTS
from tasks.cleanup.item import DAY, Item, last_change, size
from tasks.cleanup.references import open_runs
from tasks.records.file_lock import locked
from tasks.records.workspace import Workspace
from tasks.registry.fetching import fetch_lock

HOUR = 1 / 24  # days
UNFINISHED = "unfinished download"
_RESULT = re.compile(r"[0-9a-f]{64}\.json")
_SPLIT = re.compile(r".+-[0-9a-f]{12}\.jsonl")
_OBJECTS = re.compile(r"[0-9a-f]{16}|\.[0-9a-f]{16}\.[0-9a-f]{8}")
_FETCHED = re.compile(r"[0-9a-f]{12}|\.[a-z0-9_]{8}")  # the second one: tempfile's names


def cached_items(workspace: Workspace, older_than_days: float) -> Iterator[Item]:
    """Yield the cached files and folders that no run has used for this long."""
    for path, what in _cached(workspace):
        if _is_unused(workspace, path, older_than_days):
            yield Item(path, what, _days(path), size(path))


def is_cached(workspace: Workspace, path: Path) -> bool:
    """Return True for a path in one of the caches."""
    caches = (workspace.fetched, workspace.heldout, workspace.objects)
    return path.parent in (workspace.runs / BENCHMARK_RESULTS, *caches)


@contextlib.contextmanager
def unused(workspace: Workspace, path: Path, older_than_days: float) -> Iterator[bool]:
    """Yield True while a cached file or folder is unused, and nobody can begin to use it."""
    with contextlib.ExitStack() as held:
        if path.parent == workspace.fetched:
            held.enter_context(locked(fetch_lock(path)))
        yield _is_unused(workspace, path, older_than_days)


def _cached(workspace: Workspace) -> Iterator[tuple[Path, str]]:
    for path in _files(workspace.runs / BENCHMARK_RESULTS, _RESULT):
        yield path, "result on a benchmark"
    for path in _files(workspace.heldout, _SPLIT):
        yield path, "held-out split without leaked prompts"
    for path in _paths(workspace.fetched, _FETCHED):
        if path.is_dir():
            yield path, UNFINISHED if path.name[0] == "." else "fetched version"
    for path in _paths(workspace.objects, _OBJECTS):
        if path.is_dir():
            yield path, UNFINISHED if path.name[0] == "." else "fetched objects"


def _files(folder: Path, name: re.Pattern) -> list[Path]:
    return [path for path in _paths(folder, name) if path.is_file()]


def _paths(folder: Path, name: re.Pattern) -> list[Path]:
    """Return what a cache holds under names that this project gives; no link is followed."""
    found = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
    return [path for path in found if name.fullmatch(path.name) and not path.is_symlink()]


def _is_unused(workspace: Workspace, path: Path, older_than_days: float) -> bool:
    return _days(path) >= max(older_than_days, HOUR) and not _is_named(workspace, path)


def _days(path: Path) -> float:
    """Return the days since the last use, 0 for what is removed meanwhile, as a run does."""
    try:
        return (time.time() - last_change(path)) / DAY
    except FileNotFoundError:
        return 0.0


def _is_named(workspace: Workspace, path: Path) -> bool:
    """Return True when a stage of a run that goes on, or waits for MLflow, takes it as input."""
    specs = [workspace.runs / name / "spec.json" for name in open_runs(workspace)]
    return any(str(path) in spec.read_text(encoding="utf-8") for spec in specs if spec.is_file())
