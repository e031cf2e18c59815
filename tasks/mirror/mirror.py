"""The mirror of a workspace, as runs use it: fetch before a stage, copy during and after it."""

import logging
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from rlhf_core.errors import BadInput
from rlhf_core.rundir import StageSpec, read_result
from tasks.mirror import marks
from tasks.mirror.arrival import arrive, arrive_stopped, finish_move
from tasks.mirror.copies import CopyName
from tasks.mirror.remote import Remote
from tasks.mirror.uploader import Upload, Uploader
from tasks.records.workspace import Workspace

T = TypeVar("T")
PAUSE = 30.0  # seconds without a look at a store that did not answer
log = logging.getLogger("rlhf.mirror")
_UPLOADERS: dict[str, Uploader] = {}  # by address
_SILENT: dict[str, float] = {}  # by address: when a store did not answer


@dataclass(frozen=True)
class MirrorReport:
    """The run directories' names that the remote has now, and those that it has not.

    problem: why not.
    """

    address: str
    mirrored: list[str]
    waiting: list[str]
    problem: str | None = None


def begin(workspace: Workspace) -> None:
    """Check the remote before a run, and share the day of the chat templates. Raises BadInput."""
    if remote := Remote.here():
        remote.require_usable()
        _asking(remote, lambda: remote.share_template_date(workspace))


def fetch(spec: StageSpec, run_dir: Path) -> CopyName | None:
    """Put what the remote has of a stage, and is further, into its run directory.

    The caller holds the directory's lock. Return the copy's name, None for nothing.
    """
    finish_move(run_dir)
    if (run_dir / "result.json").exists() or not (remote := Remote.here()):
        return None
    return _asking(remote, lambda: arrive(remote, spec, run_dir))


def fetch_stopped(spec: StageSpec, run_dir: Path) -> None:
    """Put what the remote has of the same work on other ranks, and is further, beside `run_dir`."""
    if remote := Remote.here():
        _asking(remote, lambda: arrive_stopped(remote, spec, run_dir))


def watching(spec: StageSpec, run_dir: Path, watch: Callable[[], None]) -> Callable[[], None]:
    """Return `watch` with a look at the checkpoints of a running stage, where there is a remote."""
    if not (uploader := uploader_here()):
        return watch

    def both() -> None:
        watch()
        uploader.look(spec, run_dir)

    return both


def keep(spec: StageSpec, run_dir: Path) -> None:
    """Have a finished run directory copied to the remote, where there is one."""
    if uploader := uploader_here():
        uploader.want(Upload(run_dir, spec.digest))


def end(workspace: Workspace, run_dirs: Iterable[Path]) -> None:
    """Wait until the run directories are in the remote; say which ones are not."""
    if not (uploader := uploader_here()):
        return
    remote, run_dirs = uploader.remote, list(run_dirs)
    failed = uploader.drain(run_dirs)
    _asking(remote, lambda: remote.share_template_date(workspace))
    if failed:
        names = ", ".join(path.name for path in failed)
        log.warning("not in %s: %s (%s). Later: rlhf sync", remote.address, names, uploader.problem)


def mirror_all(workspace: Workspace) -> MirrorReport | None:
    """Copy every finished run directory that the remote lacks; None without a remote."""
    if not (uploader := uploader_here()):
        return None
    address = uploader.remote.address
    missing = marks.not_mirrored(sorted(workspace.runs.glob("*-*")), address)
    for run_dir in missing:
        if result := read_result(run_dir):
            uploader.want(Upload(run_dir, result.digest))
    failed = uploader.drain(missing)
    done = [path.name for path in missing if path not in failed]
    return MirrorReport(address, done, [path.name for path in failed], uploader.problem)


def uploader_here() -> Uploader | None:
    """Return the uploader of this process for RLHF_REMOTE, None where that is not set."""
    if not (remote := Remote.here()):
        return None
    return _UPLOADERS.setdefault(remote.address, Uploader(remote))


def _asking(remote: Remote, ask: Callable[[], T]) -> T | None:
    """Return what the store answers; None, with a warning, where it does not answer.

    It is left in peace for a while then.
    """
    if time.monotonic() < _SILENT.get(remote.address, 0.0):
        return None
    try:
        return ask()
    except BadInput:
        raise
    except Exception as error:
        remote.warn(error)
        _SILENT[remote.address] = time.monotonic() + PAUSE
        return None
