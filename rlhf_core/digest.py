"""Content digests: the identity of files, folders, configurations and of this code."""

import hashlib
import json
from functools import cache
from pathlib import Path

from rlhf_core.patterns import fixed_folder, is_pattern, matching_files

_CHUNK = 1 << 20
_CANONICAL = json.JSONEncoder(
    sort_keys=True, separators=(",", ":"), allow_nan=False, ensure_ascii=False
)


def digest_json(value: object) -> str:
    """Return the sha256 (hex) of the canonical JSON of `value`: sorted keys, no spaces, no NaN."""
    return hashlib.sha256(_CANONICAL.encode(value).encode()).hexdigest()


def digest_file(path: Path) -> str:
    """Return the sha256 (hex) of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def digest_path(path: Path) -> str:
    """Return the digest of a file, of a folder, or of the files that a pattern matches.

    A folder's digest covers every file below it by relative name and content, without hidden files;
    a pattern's digest covers the files that it matches in the same way.
    """
    if path.is_file():
        return digest_file(path)
    if is_pattern(path):
        return _digest_files(fixed_folder(path), matching_files(path))
    files = sorted(
        file for file in path.rglob("*") if file.is_file() and not file.name.startswith(".")
    )
    return _digest_files(path, files)


def _digest_files(folder: Path, files: list[Path]) -> str:
    return digest_json([[file.relative_to(folder).as_posix(), digest_file(file)] for file in files])


@cache
def code_digest() -> str:
    """Return the digest of this package's own source, since changed code may change a result."""
    root = Path(__file__).parent
    return digest_json(
        [[p.relative_to(root).as_posix(), digest_file(p)] for p in sorted(root.rglob("*.py"))]
    )
