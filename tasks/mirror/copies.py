"""The copies of one run directory in the remote: whole, or not counted at all.

runs/<run directory>/<copy>/files/...      the files
runs/<run directory>/<copy>/manifest.json  their sizes and digests; written last

A copy without a manifest is being written, or its writer was killed. No file of a copy is ever
written again: another upload has another name. Whoever reads checks every digest.
"""

import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from pydantic import ValidationError

from rlhf_core.digest import digest_file
from rlhf_core.rundir import Frozen
from tasks.mirror.remote import Remote

MANIFEST = "manifest.json"
_NAME = re.compile(r"(finished|checkpoint)-(\d+)-(\d+)-(\d{8}T\d{6}-[0-9a-f]{6})")


class CopyName(NamedTuple):
    """The name of a copy; the greater one is further, of equally far ones it is the newer one.

    members: of an ensemble, that are finished; step: of the checkpoint; made: UTC, random digits.
    """

    is_finished: bool
    members: int
    step: int
    made: str

    @classmethod
    def new(cls, *, is_finished: bool, members: int = 0, step: int = 0) -> "CopyName":
        """Return a name that no other copy has."""
        made = f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(3)}"
        return cls(is_finished, members, step, made)

    @classmethod
    def read(cls, text: str) -> "CopyName | None":
        """Return the name that a folder has, None for another folder."""
        found = _NAME.fullmatch(text)
        return (
            cls(found[1] == "finished", int(found[2]), int(found[3]), found[4]) if found else None
        )

    def __str__(self) -> str:
        kind = "finished" if self.is_finished else "checkpoint"
        return f"{kind}-{self.members}-{self.step:06d}-{self.made}"


class CopiedFile(Frozen):
    """A file of a copy: its path below the run directory, bytes, and sha256."""

    path: str
    size: int
    sha256: str


class Manifest(Frozen):
    """The content of a copy. digest: of the stage's spec."""

    format: Literal[1] = 1
    digest: str
    files: tuple[CopiedFile, ...]


class DamagedCopy(Exception):
    """A copy that does not hold what its manifest says, or belongs to another spec."""


@dataclass(frozen=True)
class RunCopies:
    """The copies of one run directory."""

    remote: Remote
    run: str  # the directory's name

    def names(self) -> list[CopyName]:
        """Return every copy, complete or not, the furthest and newest first."""
        files = self.remote.files
        files.invalidate_cache()
        try:
            found = files.ls(self._folder, detail=False)
        except FileNotFoundError:
            return []
        names = (CopyName.read(PurePosixPath(path.rstrip("/")).name) for path in found)
        return sorted(filter(None, names), reverse=True)

    def manifest(self, name: CopyName) -> Manifest | None:
        """Return what a copy holds, None while it is incomplete."""
        try:
            text = self.remote.files.cat_file(f"{self._folder}/{name}/{MANIFEST}")
            return Manifest.model_validate_json(text)
        except (FileNotFoundError, ValidationError):  # a folder shows a manifest half written
            return None

    def write(self, name: CopyName, source: Path, paths: Iterable[Path], digest: str) -> None:
        """Copy files, given relative to `source`, and write the manifest when all are there.

        Raises OSError for a file that changes meanwhile.
        """
        files, place = self.remote.files, f"{self._folder}/{name}"
        found = []
        for path in sorted(paths):
            file, relative = source / path, path.as_posix()
            before, sha256 = file.stat(), digest_file(file)
            found.append(CopiedFile(path=relative, size=before.st_size, sha256=sha256))
            files.put_file(str(file), f"{place}/files/{relative}")
            after = file.stat()
            if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
                raise OSError(f"{file} changed while it was copied")
        manifest = Manifest(digest=digest, files=tuple(found))
        files.pipe_file(f"{place}/{MANIFEST}", manifest.model_dump_json(indent=1).encode())

    def read(self, name: CopyName, manifest: Manifest, target: Path) -> None:
        """Fetch a copy into an empty folder. Raises DamagedCopy for bytes that were not copied."""
        files, place = self.remote.files, f"{self._folder}/{name}"
        for one in manifest.files:
            path = PurePosixPath(one.path)
            if path.is_absolute() or ".." in path.parts:
                raise DamagedCopy(f"its manifest names {one.path}, outside the run directory")
            file = target / path
            file.parent.mkdir(parents=True, exist_ok=True)
            try:
                files.get_file(f"{place}/files/{one.path}", str(file))
            except FileNotFoundError:
                raise DamagedCopy(f"{one.path} is missing") from None
            if file.stat().st_size != one.size or digest_file(file) != one.sha256:
                raise DamagedCopy(f"{one.path} holds other bytes than were copied")

    def remove(self, name: CopyName) -> None:
        """Remove a copy, its manifest first: after a kill in between it does not count."""
        files, place = self.remote.files, f"{self._folder}/{name}"
        for path in (f"{place}/{MANIFEST}", place):
            try:
                files.rm(path, recursive=path == place)
            except FileNotFoundError:
                continue

    @property
    def _folder(self) -> str:
        return f"{self.remote.root}/runs/{self.run}"
