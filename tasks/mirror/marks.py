"""The notes in a run directory about its copies: which one it is in, which ones were refused."""

from pathlib import Path

from pydantic import ValidationError

from rlhf_core.rundir import Frozen, write_atomically

MIRRORED, REFUSED = ".mirrored.json", ".refused_copies"


class Mirrored(Frozen):
    """The copy that a finished run directory is in, or came from."""

    remote: str
    copy_name: str


def is_mirrored(run_dir: Path, address: str) -> bool:
    """Return True when a finished run directory is in the remote with this address."""
    try:
        text = (run_dir / MIRRORED).read_text(encoding="utf-8")
        return Mirrored.model_validate_json(text).remote == address
    except (FileNotFoundError, ValidationError):
        return False


def note_mirrored(run_dir: Path, address: str, copy_name: str) -> None:
    """Note the copy that a finished run directory is in."""
    note = Mirrored(remote=address, copy_name=copy_name)
    write_atomically(run_dir / MIRRORED, note.model_dump_json())


def not_mirrored(run_dirs: list[Path], address: str) -> list[Path]:
    """Return the finished directories among these that the remote does not have."""
    return [
        path
        for path in run_dirs
        if (path / "result.json").exists() and not is_mirrored(path, address)
    ]


def refused(run_dir: Path) -> set[str]:
    """Return the names of the copies that were refused because they are damaged."""
    file = run_dir / REFUSED
    return set(file.read_text(encoding="utf-8").split()) if file.exists() else set()


def note_refused(run_dir: Path, copy_name: str) -> None:
    """Note that a copy is damaged, so that it is neither fetched nor counted again."""
    write_atomically(run_dir / REFUSED, "\n".join(sorted(refused(run_dir) | {copy_name})) + "\n")
