"""The files of a run directory that a copy holds.

Of a finished stage these are all that it left. Of one that runs they are what it needs to go on:
its newest checkpoint and the records beside it. Hidden files and token ids are left out.
"""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from rlhf_core.rundir import CHECKPOINTS, STOP, TOKENS
from tasks.execution.stopped_stage import Progress, link_or_copy

SNAPSHOT = ".mirror"  # in a run directory, while a copy of it is being written
TRIES = 5
# of a stage that has not finished: files of this machine's try, which the next one writes anew
LOCAL = ("spec.json", "failure.json", "stage.log", "system.jsonl")
# the picture is drawn from the metrics, when MLflow gets it
_NEVER = (TOKENS, STOP, "launch.env", "curves.png")
_GROWS = ".jsonl"  # a file to which lines are appended: any beginning of it is a state of it


class Unsteady(Exception):
    """A run directory that changed all the time while it was read."""


def files_of_finished(run_dir: Path) -> list[Path]:
    """Return the files of a finished run directory, relative to it."""
    return [path for path in _files(run_dir) if path.parts[0] not in (CHECKPOINTS, "failure.json")]


def files_of_checkpoint(run_dir: Path, reached: Progress) -> list[Path]:
    """Return the files from which an unfinished stage goes on, relative to its directory."""
    return [
        path
        for path in _files(run_dir)
        if path.parts[0] not in LOCAL
        and (path.parts[0] != CHECKPOINTS or _serves(path.relative_to(CHECKPOINTS), reached))
    ]


def _serves(path: Path, reached: Progress) -> bool:
    """Return True for a file in `checkpoints` that is of no older checkpoint."""
    parts = path.parts
    if reached.members > 1:
        if parts[0] != reached.folder:
            return False
        parts = parts[1:]
    return not parts[0].startswith("step-") or parts[0] == f"step-{reached.step:06d}"


def _files(run_dir: Path) -> Iterator[Path]:
    for folder, folders, names in os.walk(run_dir):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            path = Path(folder, name).relative_to(run_dir)
            if not name.startswith(".") and path.parts[0] not in _NEVER:
                yield path


def drop_left_over(run_dir: Path) -> None:
    """Remove the snapshot that a killed upload left."""
    shutil.rmtree(run_dir / SNAPSHOT, ignore_errors=True)


@contextlib.contextmanager
def taken(run_dir: Path, reached: Progress) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder with one state of a stage that goes on meanwhile, and its files.

    Weights are linked, so that the stage may remove them. Raises Unsteady where files come and go
    at every try.
    """
    snapshot = run_dir / SNAPSHOT
    try:
        yield snapshot, _steady(run_dir, reached, snapshot)
    finally:
        drop_left_over(run_dir)


def _steady(run_dir: Path, reached: Progress, snapshot: Path) -> list[Path]:
    for _ in range(TRIES):
        drop_left_over(run_dir)
        with contextlib.suppress(FileNotFoundError):
            paths = files_of_checkpoint(run_dir, reached)
            before = _states(run_dir, paths)
            for path in paths:
                (snapshot / path).parent.mkdir(parents=True, exist_ok=True)
                link_or_copy(str(run_dir / path), str(snapshot / path))
            if before == _states(run_dir, files_of_checkpoint(run_dir, reached)):
                return paths
    raise Unsteady(f"{run_dir} changed at each of {TRIES} tries to read it")


def _states(run_dir: Path, paths: list[Path]) -> dict[Path, tuple[int, ...]]:
    """Return what changes when a file is written again; of one that grows only that it is there."""
    found: dict[Path, tuple[int, ...]] = {}
    for path in paths:
        state = (run_dir / path).stat()
        found[path] = (
            () if path.suffix == _GROWS else (state.st_size, state.st_mtime_ns, state.st_ino)
        )
    return found
