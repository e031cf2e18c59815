"""A stage goes on in a new run directory where the same work stopped on other ranks.

The number of ranks is in a stage's identity, because it decides the order of sums: a run directory
holds the result of one number. A stage that was stopped and comes back with other ranks therefore
starts from a copy of the checkpoints in the stopped directory, and its record says so.
"""

import contextlib
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rlhf_core.engine.continued import CONTINUED
from rlhf_core.rundir import CHECKPOINTS, StageSpec, write_atomically

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
# of a run directory, what a copy must not have; names with a dot are half written
_OWN_FILES = (
    "spec.json",
    "stage.log",
    "system.jsonl",
    "failure.json",
    "launch.env",
    "tokens",
    ".*",
)


def continue_stopped(spec: StageSpec, run_dir: Path) -> Path | None:
    """Copy what the same stage left when it stopped with other ranks; return its run directory.

    None where `run_dir` has checkpoints of its own, and where no such directory is found. Weights
    are linked, not copied. A stage that still runs is left alone.
    """
    if (run_dir / CHECKPOINTS).exists():
        return None
    wanted = _work(spec)
    found = [path for path in run_dir.parent.glob(f"{spec.stage}-*") if path != run_dir]
    for stopped in sorted(filter(_newest_checkpoint, found), key=_newest_checkpoint, reverse=True):
        with _locked(stopped) as free:
            theirs = _spec_of(stopped) if free else None
            if theirs and _work(theirs) == wanted:
                _copy(stopped, run_dir, theirs)
                return stopped
    return None


def _work(spec: StageSpec) -> dict[str, Any]:
    """Return a spec's JSON values without what only divides the work."""
    values = spec.model_dump(mode="json", exclude={"inputs"})
    config = values["config"]
    config.pop("ranks", None)
    for section in config.values():
        if isinstance(section, dict):
            for key in LAYOUT_KEYS:
                section.pop(key, None)
    return values | {"inputs": {name: item.digest for name, item in spec.inputs.items()}}


def _newest_checkpoint(run_dir: Path) -> float:
    """Return the time of an unfinished stage's newest checkpoint; 0 for none."""
    if (run_dir / "result.json").exists():
        return 0.0
    folders = (run_dir / CHECKPOINTS).glob("**/step-*")
    return max((folder.stat().st_mtime for folder in folders), default=0.0)


def _spec_of(run_dir: Path) -> StageSpec | None:
    try:
        text = (run_dir / "spec.json").read_text(encoding="utf-8")
        return StageSpec.model_validate_json(text)
    except (OSError, ValueError):
        return None


def _copy(stopped: Path, run_dir: Path, theirs: StageSpec) -> None:
    """Copy a run directory, its checkpoints last and at once, and record where they are from."""
    besides = shutil.ignore_patterns(*_OWN_FILES, CHECKPOINTS)
    shutil.copytree(stopped, run_dir, ignore=besides, copy_function=_link, dirs_exist_ok=True)
    earlier = run_dir / CONTINUED
    before = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else []
    steps = {path.name for path in (stopped / CHECKPOINTS).glob("**/step-*")}
    one = {"run_dir": stopped.name, "ranks": theirs.ranks, "checkpoint": max(steps)}
    write_atomically(earlier, json.dumps([*before, one], indent=2))
    copied = run_dir / f".{CHECKPOINTS}"
    shutil.rmtree(copied, ignore_errors=True)
    half_written = shutil.ignore_patterns(".*")
    shutil.copytree(stopped / CHECKPOINTS, copied, ignore=half_written, copy_function=_link)
    copied.rename(run_dir / CHECKPOINTS)


def _link(source: str, target: str) -> None:
    """Link weights, which are never changed in place; copy every other file."""
    if source.endswith(".safetensors"):
        with contextlib.suppress(OSError):  # a file system without links, or one that is there
            os.link(source, target)
            return
    shutil.copy2(source, target)


@contextlib.contextmanager
def _locked(run_dir: Path) -> Iterator[bool]:
    """Lock a run directory as a running stage does; yield False where one holds it."""
    try:
        with (run_dir / ".lock").open("a", encoding="utf-8") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
    except BlockingIOError:
        yield False
