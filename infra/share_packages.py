"""Keep the files that two virtual environments have alike once on disk, under both names.

    .venv/stage/bin/python infra/share_packages.py .venv/stage .venv

The second gets hard links to the first, also to what is compiled of shared files; what is then not
compiled there is compiled. pip replaces files and never writes into them, so that each environment
can be changed without the other. On two file systems nothing is shared.
"""

import compileall
import filecmp
import os
import sys
from collections.abc import Iterator
from importlib.util import cache_from_source
from pathlib import Path


def main() -> int:
    """Share the files, compile the rest, and print what was saved; return 0."""
    first, second = (_packages(Path(name)) for name in sys.argv[1:])
    saved = sum(share(first / file, second / file) for file in _files(second))
    print(f"{saved / 2**20:.0f} MiB of {second} are shared with {first}")
    compileall.compile_dir(second, quiet=2, workers=0)
    return 0


def share(kept: Path, other: Path) -> int:
    """Make a file a link to the one that is kept, where they are equal; return the bytes saved."""
    if not kept.is_file() or os.path.samefile(kept, other):
        return 0
    if not filecmp.cmp(kept, other, shallow=False) or not _link(kept, other):
        return 0
    compiled = Path(cache_from_source(str(kept)))
    if other.suffix == ".py" and compiled.exists():  # it holds the time of the file that is kept
        _link(compiled, Path(cache_from_source(str(other))))
    return kept.stat().st_size


def _link(kept: Path, other: Path) -> bool:
    """Put a link in the place of a file; return False where the file system cannot."""
    new = other.with_name(f"{other.name}.new")
    other.parent.mkdir(exist_ok=True)
    try:
        os.link(kept, new)
    except OSError:
        return False
    new.replace(other)
    return True


def _files(folder: Path) -> Iterator[Path]:
    found = (file for file in folder.rglob("*") if "__pycache__" not in file.parts)
    yield from (file.relative_to(folder) for file in found if file.is_file())


def _packages(environment: Path) -> Path:
    (found,) = environment.glob("lib/python*/site-packages")
    return found


if __name__ == "__main__":
    sys.exit(main())
