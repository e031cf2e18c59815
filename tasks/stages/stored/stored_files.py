"""Files and folders in an object store, as recipes name them: fetched once, known by their ETags.

objects/<16 digits>/  in the workspace: the files of one address, with their names there. The digits
                      are a digest of the address and of each object's name, ETag and size.

A stage takes the files from there, and knows them by their bytes as it knows any others.
"""

import contextlib
import glob
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

from rlhf_core.buckets import (
    CREDENTIALS,
    file_system,
    is_absent,
    is_refused,
    lacks_credentials,
    reason,
)
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.rundir import write_atomically
from tasks.mirror.azure_token import require_token
from tasks.records.workspace import Workspace, home_folder

ALLOWED = "RLHF_ALLOWED_BUCKETS"  # addresses, a comma between them; beside RLHF_ALLOWED_ROOTS
SOURCE = ".source.json"  # beside the files: where they are from; hidden, so in no digest
NAMES_OF_ETAG = ("ETag", "etag", "md5Hash", "content_md5")


@dataclass(frozen=True)
class StoredObject:
    """An object of an address: its name relative to the address's folder, and its version."""

    name: str
    etag: str
    size: int
    modified: float  # seconds since the epoch, 0 where the store does not say


@dataclass(frozen=True)
class StoredFiles:
    """The objects that an address names. base: their folder in the store; rest: what follows it."""

    address: str
    files: Any
    base: str
    rest: str
    objects: tuple[StoredObject, ...]

    @property
    def digest(self) -> str:
        """The identity of these objects in these versions."""
        return digest_json([self.address, [[o.name, o.etag, o.size] for o in self.objects]])


def listed(field: str, address: str) -> StoredFiles:
    """Return the objects that an address names: one, those below a folder, those of a pattern.

    Raises BadInput naming the field when there are none, or none that may be read; StageFailed when
    the store does not answer.
    """
    _require_allowed(field, address)
    files, root = file_system(field, address)
    with _explained(field, address):
        require_token(files)
        files.invalidate_cache()
        base, rest, infos = _found(files, root)
    objects = tuple(sorted(_objects(base, infos), key=lambda one: one.name))
    if not objects:
        raise _missing(field, address)
    return StoredFiles(address, files, base, rest, objects)


def fetched(field: str, address: str) -> Path:
    """Return the local file, folder or pattern of an address, fetched unless it is here already.

    Raises as `listed` does.
    """
    found = listed(field, address)
    folder = Workspace(home_folder()).objects / found.digest[:16]
    if folder.exists():
        os.utime(folder)  # `rlhf gc` goes by the last use
        return folder / found.rest
    temporary = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}")
    try:
        for one in found.objects:
            file = temporary / one.name
            file.parent.mkdir(parents=True, exist_ok=True)
            with _explained(field, address):
                found.files.get_file(f"{found.base}/{one.name}", str(file))
            if file.stat().st_size != one.size:
                raise StageFailed(
                    f"{field}: {one.name} of {address} came with {file.stat().st_size} bytes,"
                    f" expected {one.size}: it is being written. Run again."
                )
        source = {"address": address, "objects": [asdict(one) for one in found.objects]}
        write_atomically(temporary / SOURCE, json.dumps(source, indent=1))
        with contextlib.suppress(FileExistsError, OSError):  # another process was first
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder / found.rest


def _found(files: Any, root: str) -> tuple[str, str, dict[str, dict]]:
    """Return the folder of an address, what follows it, and the objects' entries by path."""
    if glob.has_magic(root):
        parts = root.split("/")
        first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
        found = files.glob(root, detail=True)
        return "/".join(parts[:first]), "/".join(parts[first:]), found
    info = files.info(root)
    if info["type"] == "file":
        base, _, name = root.rpartition("/")
        return base, name, {root: info}
    return root, "", files.find(root, detail=True)


def _objects(base: str, infos: dict[str, dict]) -> Iterator[StoredObject]:
    for path, info in infos.items():
        name = PurePosixPath(path).relative_to(base)
        hidden = any(part.startswith(".") for part in name.parts)
        if info["type"] != "file" or hidden or path.endswith("/"):
            continue
        modified = _seconds(info)
        etag = next((str(info[key]) for key in NAMES_OF_ETAG if info.get(key)), str(modified))
        yield StoredObject(name.as_posix(), etag.strip('"'), int(info["size"]), modified)


def _seconds(info: dict) -> float:
    """Return when an object was written, as the file systems of fsspec say it."""
    names = ("LastModified", "last_modified", "updated", "mtime")
    found = next((info[name] for name in names if info.get(name)), 0.0)
    if isinstance(found, str):
        found = datetime.fromisoformat(found)
    return found.timestamp() if isinstance(found, datetime) else float(found)


def _require_allowed(field: str, address: str) -> None:
    """Raise BadInput where a worker may read some folders only, and this address is not named."""
    allowed = [one.strip().rstrip("/") for one in os.environ.get(ALLOWED, "").split(",")]
    limited = bool(os.environ.get("RLHF_ALLOWED_ROOTS") or any(allowed))
    if limited and not any(one and f"{address}/".startswith(f"{one}/") for one in allowed):
        raise BadInput(
            f"{field} is {address!r}, which this worker may not read. Have whoever runs the worker"
            f" allow it: {ALLOWED}=s3://BUCKET/FOLDER,... (rlhf down, then rlhf up with it).",
            code="RLHF-R002",
        )


@contextlib.contextmanager
def _explained(field: str, address: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        if is_absent(error):
            raise _missing(field, address) from None
        if lacks_credentials(error):
            places = CREDENTIALS.get(address.partition("://")[0], "those of the store")
            raise BadInput(
                f"{field} is {address!r}, and there are no credentials ({reason(error)}). Set"
                f" {places}."
            ) from error
        if is_refused(error):
            raise BadInput(
                f"{field} is {address!r}, which your credentials may not read ({reason(error)})."
                " Ask the bucket's owner, or set others."
            ) from error
        raise StageFailed(
            f"{field} is {address!r}, and the store does not answer ({reason(error)}). Run again"
            " when it does."
        ) from error


def _missing(field: str, address: str) -> BadInput:
    return BadInput(
        f"{field} is {address!r}: no such object, folder or match there. Correct the address in the"
        " recipe or with --set."
    )
