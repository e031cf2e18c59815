"""Files that can run code when they are loaded."""

from pathlib import Path

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})


def pickle_files(folder: Path) -> list[str]:
    """Return the sorted names of the pickle files in `folder` and its subfolders."""
    return sorted(file.name for file in folder.rglob("*") if file.suffix in PICKLE_SUFFIXES)
