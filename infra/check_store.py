"""Try an object store as runs use it: `python infra/check_store.py az://team/check`.

It writes a made-up stage below the address, copies its checkpoints and its end, fetches each as
another machine would, reads data by a pattern, changes an object, and removes everything again. It
prints what worked. Exit code 0, 2 for an address that cannot be used, 1 for anything else.
"""

import secrets
import sys
import tempfile
from pathlib import Path

from rlhf_core.buckets import file_system, reason
from rlhf_core.errors import RLHFError
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.mirror.arrival import arrive
from tasks.mirror.copies import CopyName, RunCopies
from tasks.mirror.remote import MARK, Remote
from tasks.mirror.uploader import KEPT, Upload
from tasks.stages.stored.stored_files import listed

SPEC: StageSpec = StageSpec(stage="sft", seed=1, config={}, inputs={}, code="check_store")


def main(words: list[str]) -> int:
    """Try the store that the only word names; return the exit code."""
    if len(words) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    try:
        check(words[0].rstrip("/"))
    except RLHFError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    except Exception as error:
        print(f"{words[0]} failed: {reason(error)}", file=sys.stderr)
        return 1
    return 0


def check(address: str) -> None:
    """Try everything below a new folder of the address, and remove that folder.

    Raises RLHFError for what was found wrong, and what the store's client raises.
    """
    place = f"{address}/check-{secrets.token_hex(4)}"
    remote = Remote(place, *file_system("ADDRESS", place))
    remote.require_usable()
    remote.files.cat_file(f"{remote.root}/{MARK}")  # a store that does not answer ends it here
    print(f"{place} can be written")
    try:
        with tempfile.TemporaryDirectory() as folder:
            _checkpoints(remote, Path(folder))
            _finished(remote, Path(folder))
        _data(remote)
    finally:
        remote.files.rm(remote.root, recursive=True)
    remote.files.invalidate_cache()
    _require(not remote.files.find(remote.root), "objects are still there after their removal")
    print("everything was removed again")


def _checkpoints(remote: Remote, folder: Path) -> None:
    run_dir = folder / "there" / "sft-check"
    for step in range(1, KEPT + 2):
        _write(run_dir / "checkpoints" / f"step-{step:06d}" / "state.safetensors", f"state {step}")
        _write(run_dir / "metrics.jsonl", '{"step": 1}\n')
        Upload(run_dir, SPEC.digest).run(remote)
    kept = RunCopies(remote, run_dir.name).names()
    _require(len(kept) == KEPT, f"the store has {len(kept)} checkpoints, expected {KEPT}")
    newest = f"checkpoints/step-{KEPT + 1:06d}/state.safetensors"
    _arrives(remote, folder / "resumed" / run_dir.name, newest, f"state {KEPT + 1}")
    print(f"the newest {KEPT} of {KEPT + 1} checkpoints are kept, and the newest is fetched")


def _finished(remote: Remote, folder: Path) -> None:
    run_dir = folder / "there" / "sft-check"
    _write(run_dir / "model" / "weights", "w" * 3_000_000)
    outputs = {"model": Artifact(path=Path("model"), digest=Artifact.of(run_dir / "model").digest)}
    result = StageResult(stage=SPEC.stage, digest=SPEC.digest, outputs=outputs, seconds=1.0)
    _write(run_dir / "result.json", result.model_dump_json())
    Upload(run_dir, SPEC.digest).run(remote)
    names = RunCopies(remote, run_dir.name).names()
    _require(
        [name.is_finished for name in names] == [True],
        f"the copies are {', '.join(map(str, names))}",
    )
    name = _arrives(remote, folder / "found" / run_dir.name, "model/weights", "w" * 3_000_000)
    _require(name.is_finished, f"{name} was fetched")
    print("a finished stage takes the place of its checkpoints, and is fetched")


def _arrives(remote: Remote, run_dir: Path, file: str, text: str) -> CopyName:
    """Fetch the furthest copy into a new run directory, check a file of it; return its name."""
    run_dir.mkdir(parents=True)
    name = arrive(remote, SPEC, run_dir)
    _require(name is not None, "no copy was found")
    assert name is not None  # as just required
    found = (run_dir / file).read_text(encoding="utf-8")
    _require(found == text, f"{file} holds other bytes than were copied")
    return name


def _data(remote: Remote) -> None:
    pattern, place = f"{remote.address}/data/*.jsonl", f"{remote.root}/data"

    def digest() -> str:
        return listed("ADDRESS", pattern).digest

    for number in range(2):
        remote.files.pipe_file(f"{place}/{number}.jsonl", b"{}\n")
    before = digest()
    names = [one.name for one in listed("ADDRESS", pattern).objects]
    _require(names == ["0.jsonl", "1.jsonl"], f"{pattern} gives {names}")
    _require(digest() == before, "the ETags change although no object does")
    remote.files.pipe_file(f"{place}/1.jsonl", b"[]\n")
    _require(digest() != before, "the ETag of an object stays although its bytes change")
    print("data are found by a pattern, and a change by its ETag")


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise RLHFError(f"this store cannot be used: {otherwise}.")


def _write(file: Path, text: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
