"""The state that a stopped stage left in its run directory: how far it came, and a copy of it.

Steps after the last checkpoint come out differently on other ranks, by rounding. A copy therefore
has no record of them.
"""

import contextlib
import json
import os
import shutil
from pathlib import Path
from typing import NamedTuple

from rlhf_core.engine.continued import CONTINUED
from rlhf_core.judging.kept_answers import FILE as ANSWERS
from rlhf_core.judging.kept_answers import KeptAnswers
from rlhf_core.rundir import CHECKPOINTS, STOP, StageSpec, read_metrics, write_atomically
from rlhf_core.stage_catalogue import REWARD

METRICS, EVALUATIONS = "metrics.jsonl", "evaluations.json"
COPIED = f".{CHECKPOINTS}"  # until every other file is copied
# of a run directory, what a copy must not have; names with a dot are half written
_OWN_FILES = (
    "spec.json",
    "stage.log",
    "system.jsonl",
    "failure.json",
    STOP,
    "launch.env",
    "tokens",
    ".*",
)
# records of steps, and saved models: they replace what is there
_RECORDS = (METRICS, EVALUATIONS, "best-*.safetensors", "onpolicy", "model", "adapter", CONTINUED)


class Progress(NamedTuple):
    """The steps that a stage has taken; the greater one is further.

    finished: members of an ensemble that are trained and saved. step: of the newest checkpoint,
    of the next member in an ensemble.
    """

    finished: int
    step: int
    members: int = 1

    @property
    def folder(self) -> str:
        """The folder of the checkpoints below `checkpoints`."""
        return f"member_{self.finished + 1}" if self.members > 1 else ""


def members_of(spec: StageSpec) -> int:
    """Return the number of models that a stage trains one after the other."""
    if spec.stage != REWARD.name:
        return 1
    config = spec.config if isinstance(spec.config, dict) else spec.config.model_dump(mode="json")
    return config.get("reward", {}).get("ensemble", 1)


def progress_of(run_dir: Path, members: int = 1) -> Progress | None:
    """Return how far an unfinished stage came.

    None for a finished one, and for a directory that is not there or cannot be read. A running
    stage may rename and remove files meanwhile.
    """
    try:
        if (run_dir / "result.json").exists() or not run_dir.is_dir():
            return None
        finished = _finished_members(run_dir / "model", members) if members > 1 else 0
        at = Progress(finished, 0, members)
        folder = run_dir / CHECKPOINTS / at.folder
        names = os.listdir(folder) if folder.is_dir() else []
    except OSError:
        return None
    return at._replace(step=max(map(_step_of_name, names), default=0))


def _step_of_name(name: str) -> int:
    """Return the step of a complete checkpoint; 0 for another name."""
    number = name.removeprefix("step-")
    return int(number) if number != name and number.isdigit() else 0


def _finished_members(model: Path, members: int) -> int:
    """Return how many members of an ensemble are saved, one after the other from the first."""
    for number in range(1, members + 1):
        folder = model if number == 1 else model / f"member_{number}"
        if not (folder / "config.json").exists():
            return number - 1
    return members


def copy_stopped(stopped: Path, run_dir: Path, reached: Progress, *, ranks: int) -> None:
    """Copy a run directory in place of another, and record where its checkpoints are from.

    Weights are linked. The checkpoints come last and at once: after a kill in between the copy is
    made again. A judge's answers of both are kept. Raises OSError.
    """
    copied, theirs = run_dir / COPIED, stopped / CHECKPOINTS
    drop_half_copy(run_dir)
    if theirs.is_dir():
        half_written = shutil.ignore_patterns(".*")
        shutil.copytree(theirs, copied, ignore=half_written, copy_function=link_or_copy)
    copied.mkdir(parents=True, exist_ok=True)
    _remove(run_dir / CHECKPOINTS)
    for pattern in _RECORDS:
        for path in run_dir.glob(pattern):
            _remove(path)
    models = ("model", "adapter") if reached.members == 1 else ()
    left_out = (*_OWN_FILES, ANSWERS, CHECKPOINTS, *models)
    besides = shutil.ignore_patterns(*left_out)
    shutil.copytree(
        stopped, run_dir, ignore=besides, copy_function=link_or_copy, dirs_exist_ok=True
    )
    KeptAnswers(run_dir).extend(KeptAnswers(stopped))
    _cut(run_dir, reached)
    earlier = run_dir / CONTINUED
    before = json.loads(earlier.read_text(encoding="utf-8")) if earlier.exists() else []
    one = {"run_dir": stopped.name, "ranks": ranks, "checkpoint": _name(reached)}
    write_atomically(earlier, json.dumps([*before, one], indent=2))
    copied.rename(run_dir / CHECKPOINTS)


def drop_half_copy(run_dir: Path) -> None:
    """Remove the checkpoints of a copy that was cut off."""
    shutil.rmtree(run_dir / COPIED, ignore_errors=True)


def _name(reached: Progress) -> str:
    step = f"step-{reached.step:06d}"
    return f"{step} of member {reached.finished + 1}" if reached.members > 1 else step


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def link_or_copy(source: str, target: str) -> None:
    """Link weights, which are never changed in place; copy every other file."""
    Path(target).unlink(missing_ok=True)
    if source.endswith(".safetensors") and "adapter" not in Path(source).parts:
        with contextlib.suppress(OSError):  # a file system without links
            os.link(source, target)
            return
    shutil.copy2(source, target)


def _cut(run_dir: Path, reached: Progress) -> None:
    """Take the records of later steps than the copied checkpoint's out of a copy."""
    metrics, evaluations = run_dir / METRICS, run_dir / EVALUATIONS
    lines = [line for line in read_metrics(metrics) if line["step"] <= _last_step(line, reached)]
    if metrics.exists():
        write_atomically(metrics, "".join(json.dumps(line) + "\n" for line in lines))
    best = list(run_dir.glob("best-*.safetensors"))
    later = [path for path in best if _step(path) > reached.step]
    for path in [*later, *run_dir.glob("onpolicy/step-*.jsonl")]:
        if _step(path) > reached.step:
            path.unlink()
    if evaluations.exists():
        # the weights of an earlier best step went when a later one was better: no such step can
        # be kept any more
        until = 0 if best and later == best else reached.step
        found = json.loads(evaluations.read_text(encoding="utf-8"))
        kept = [one for one in found if one["step"] <= until]
        write_atomically(evaluations, json.dumps(kept, indent=1) + "\n")


def _last_step(line: dict, reached: Progress) -> int:
    """Return the step of the checkpoint as metrics count it: over all members of an ensemble."""
    if reached.members == 1:
        return reached.step
    return reached.finished * line["steps"] // reached.members + reached.step


def _step(path: Path) -> int:
    """Return the step in a name such as best-000004.safetensors."""
    return int(path.stem.rpartition("-")[2])
