"""Patterns of files such as 'shards/*.jsonl.gz': the files that one path with wildcards names."""

import glob
from pathlib import Path


def is_pattern(path: Path) -> bool:
    """Return True for a path with *, ? or [...] in it, unless a file or folder has that name."""
    return glob.has_magic(str(path)) and not path.exists()


def matching_files(pattern: Path) -> list[Path]:
    """Return the files that a pattern matches, in the order of their paths.

    '**' stands for any number of folders. Hidden files are left out.
    """
    return sorted(
        file for found in glob.glob(str(pattern), recursive=True) if (file := Path(found)).is_file()
    )


def fixed_folder(pattern: Path) -> Path:
    """Return the folder above the first part of a pattern that has a wildcard."""
    parts = list(pattern.parts)
    first = next(place for place, part in enumerate(parts) if glob.has_magic(part))
    return Path(*parts[:first])


def is_there(path: Path) -> bool:
    """Return True for a file, a folder, or a pattern that matches at least one file."""
    return path.exists() or (is_pattern(path) and bool(matching_files(path)))
