"""A stage goes on in its run directory where the same work stopped on other ranks.

The number of ranks is in a stage's identity, because it decides the order of sums: a run directory
holds the result of one number. A stage that was stopped and comes back with other ranks therefore
starts from a copy of the checkpoints in the stopped directory, and its record says so.
"""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_core.errors import StageFailed
from rlhf_core.rundir import StageSpec
from tasks.execution.stopped_stage import (
    Progress,
    copy_stopped,
    drop_half_copy,
    members_of,
    progress_of,
)

# keys of a stage's section that divide the work or say when it is saved, and change no number
# beyond rounding
LAYOUT_KEYS = (
    "zero_stage",
    "offload_optimizer",
    "activation_checkpointing",
    "frozen",
    "checkpoint_every",
    "checkpoint_minutes",
    "async_checkpoints",
    "keep_checkpoints",
)


def continue_stopped(spec: StageSpec, run_dir: Path) -> Path | None:
    """Copy what the same stage left when it stopped with other ranks; return its run directory.

    Of several such directories the one that came furthest is taken, in place of what `run_dir`
    itself has. None where no other one came further. A stage that still runs is left alone.
    Raises StageFailed where the copy cannot be written.
    """
    work = same_work(spec)
    members = members_of(spec)
    own = progress_of(run_dir, members) or Progress(0, 0, members)
    for stopped in _further(spec.stage, run_dir, own):
        with locked(stopped) as free:
            theirs = spec_of(stopped) if free else None
            # it may have gone on, or finished, before it was locked
            reached = progress_of(stopped, members)
            if theirs and reached and reached > own and same_work(theirs) == work:
                try:
                    copy_stopped(stopped, run_dir, reached, ranks=theirs.ranks)
                except OSError as error:
                    raise StageFailed(
                        f"the checkpoints of {stopped} cannot be copied to {run_dir} ({error})"
                    ) from error
                return stopped
    drop_half_copy(run_dir)
    return None


def _further(stage: str, run_dir: Path, own: Progress) -> list[Path]:
    """Return the other run directories of a stage that came further, the furthest first."""
    others = [path for path in run_dir.parent.glob(f"{stage}-*") if path != run_dir]
    reached = {path: at for path in others if (at := progress_of(path, own.members)) and at > own}
    return sorted(reached, key=reached.__getitem__, reverse=True)


def same_work(spec: StageSpec) -> dict[str, Any]:
    """Return a spec's JSON values without what only divides the work."""
    values = spec.model_dump(mode="json", exclude={"inputs"})
    config = values["config"]
    config.pop("ranks", None)
    for section in config.values():
        if isinstance(section, dict):
            for key in LAYOUT_KEYS:
                section.pop(key, None)
    return values | {"inputs": {name: item.digest for name, item in spec.inputs.items()}}


def spec_of(run_dir: Path) -> StageSpec | None:
    """Return the spec that a run directory was started with, None where there is none."""
    try:
        text = (run_dir / "spec.json").read_text(encoding="utf-8")
        return StageSpec.model_validate_json(text)
    except (OSError, ValueError):
        return None


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[bool]:
    """Lock a run directory as a running stage does.

    Yield False where a stage holds the lock, where the directory has gone, and where its lock is
    another user's.
    """
    with contextlib.ExitStack() as opened:
        try:
            lock = opened.enter_context((run_dir / ".lock").open("a", encoding="utf-8"))
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = True
        except OSError:
            free = False
        yield free
