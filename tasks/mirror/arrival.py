"""Put what the remote has of a stage into its run directory: finished, or further than here.

.fetching  a copy that is being fetched
.fetched   one that is there in full, its digests checked; its entries are being moved

What is finished counts with result.json, and a checkpoint with its folder: each is moved last. A
kill in between costs nothing, because the next start goes on moving.
"""

import logging
import os
import shutil
from pathlib import Path

from pydantic import ValidationError

from rlhf_core.errors import BadInput
from rlhf_core.judging.kept_answers import KeptAnswers
from rlhf_core.rundir import CHECKPOINTS, StageSpec, read_result, write_atomically
from tasks.execution.continuation import locked
from tasks.execution.stopped_stage import Progress, members_of, progress_of
from tasks.mirror import marks
from tasks.mirror.copies import CopyName, DamagedCopy, Manifest, RunCopies
from tasks.mirror.remote import Remote
from tasks.mirror.snapshot import LOCAL
from tasks.mirror.work_index import WorkIndex

FETCHING, FETCHED = ".fetching", ".fetched"
NAME = ".copy"  # in .fetched: the copy's name, the remote's address, and the entries
RESULT = "result.json"
log = logging.getLogger("rlhf.mirror")


def arrive(remote: Remote, spec: StageSpec, run_dir: Path) -> CopyName | None:
    """Fetch the copy that is further than `run_dir`, whose lock the caller holds; return its name.

    None where no copy is further. A damaged copy is passed over with a warning, and the next one
    is taken. Raises what the store raises when it does not answer.
    """
    finish_move(run_dir)
    copies, members = RunCopies(remote, run_dir.name), members_of(spec)
    shutil.rmtree(run_dir / FETCHING, ignore_errors=True)
    for name in copies.names():
        if not _is_further(name, run_dir, members) or str(name) in marks.refused(run_dir):
            continue
        if (manifest := copies.manifest(name)) is None:
            continue
        try:
            _fetch(copies, name, manifest, spec, run_dir)
        except DamagedCopy as damage:
            log.warning("%s of %s is not used: %s.", name, run_dir.name, damage)
            marks.note_refused(run_dir, str(name))
            continue
        finally:
            shutil.rmtree(run_dir / FETCHING, ignore_errors=True)
        finish_move(run_dir)
        return name
    return None


def arrive_stopped(remote: Remote, spec: StageSpec, run_dir: Path) -> None:
    """Fetch what the same work left on other ranks, if it is further, into directories beside.

    A directory that a stage works in here is left alone. Raises as `arrive` does.
    """
    members = members_of(spec)
    own = progress_of(run_dir, members) or Progress(0, 0, members)
    for run, theirs in WorkIndex(remote).others(spec, run_dir.name):
        copy = next(iter(RunCopies(remote, run).names()), None)
        if copy is None or copy.is_finished or Progress(copy.members, copy.step, members) <= own:
            continue
        other = run_dir.parent / run
        other.mkdir(parents=True, exist_ok=True)
        with locked(other) as free:
            if free:
                write_atomically(other / "spec.json", theirs.model_dump_json(indent=2))
                arrive(remote, theirs, other)


def _is_further(name: CopyName, run_dir: Path, members: int) -> bool:
    if (run_dir / RESULT).exists():
        return False
    own = progress_of(run_dir, members) or Progress(0, 0, members)
    return name.is_finished or Progress(name.members, name.step, members) > own


def _fetch(
    copies: RunCopies, name: CopyName, manifest: Manifest, spec: StageSpec, run_dir: Path
) -> None:
    if manifest.digest != spec.digest:
        raise DamagedCopy(f"it is of the spec {manifest.digest[:12]}, not {spec.digest[:12]}")
    fetching = run_dir / FETCHING
    fetching.mkdir(parents=True)
    copies.read(name, manifest, fetching)
    if name.is_finished:
        _require_outputs(fetching)
        # the other machine's paths are of no use here
        write_atomically(fetching / "spec.json", spec.model_dump_json(indent=2))
    else:
        KeptAnswers(fetching).extend(KeptAnswers(run_dir))
    entries = sorted(os.listdir(fetching))
    lines = [str(name), copies.remote.address, *entries]
    write_atomically(fetching / NAME, "\n".join(lines) + "\n")
    fetching.rename(run_dir / FETCHED)


def _require_outputs(folder: Path) -> None:
    try:
        result = read_result(folder)
        if result is None:
            raise DamagedCopy(f"it has no {RESULT}")
        for output in result.outputs.values():
            output.verified()
    except (BadInput, ValidationError) as error:
        raise DamagedCopy(str(error)) from error


def finish_move(run_dir: Path) -> None:
    """Move the entries of a fetched copy into the run directory, also after a kill half way."""
    fetched = run_dir / FETCHED
    if not fetched.exists():
        return
    if not (fetched / NAME).exists():  # a kill while it was removed
        shutil.rmtree(fetched)
        return
    text, address, *entries = (fetched / NAME).read_text(encoding="utf-8").splitlines()
    is_finished, last = text.startswith("finished"), (RESULT, CHECKPOINTS)
    kept = {*entries, *(() if is_finished else LOCAL)}
    for path in list(run_dir.iterdir()):
        if not path.name.startswith(".") and path.name not in kept:
            _remove(path)
    for entry in sorted(entries, key=lambda entry: entry in last):
        if (fetched / entry).exists():
            _remove(run_dir / entry)
            (fetched / entry).rename(run_dir / entry)
    if is_finished:
        marks.note_mirrored(run_dir, address, text)
    (fetched / NAME).unlink()
    shutil.rmtree(fetched)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
