"""A file or folder that `rlhf gc` may remove: its age and its size."""

import os
from dataclasses import dataclass
from pathlib import Path

DAY = 86400.0  # seconds


@dataclass(frozen=True)
class Item:
    """A file or folder to remove."""

    path: Path
    what: str
    days: float  # since its last use
    bytes: int  # that become free: files with a further name elsewhere are left out


def size(path: Path) -> int:
    """Return the bytes that become free when a file or folder is removed.

    A file with a second name elsewhere frees none.
    """
    files = (
        [path]
        if path.is_file()
        else [Path(folder) / name for folder, _, names in os.walk(path) for name in names]
    )
    stats = [file.lstat() for file in files]
    return sum(stat.st_size for stat in stats if stat.st_nlink == 1)


def last_change(path: Path) -> float:
    """Return the time of the last change to a file, or to a folder and anything below it.

    In seconds since the epoch. Lock files are left out.
    """
    times = [path.lstat().st_mtime]
    for folder, folders, files in os.walk(path):
        times += [
            (Path(folder) / name).lstat().st_mtime for name in [*folders, *files] if name != ".lock"
        ]
    return max(times)
