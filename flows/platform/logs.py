"""Keep the logs of services small.

A service writes to its log through a file that it holds open, also while nobody watches it. So the
log is copied and cut, never renamed. A service appends, hence what it writes next is at the
beginning of the file that was cut.
"""

import shutil
from pathlib import Path

LOG_BYTES = 10 * 2**20
GENERATIONS = 4  # NAME.log.1, the latest, to NAME.log.4


def rotate(log: Path, *, most_bytes: int = LOG_BYTES, generations: int = GENERATIONS) -> bool:
    """Cut a log that is larger than `most_bytes`, and keep its text as NAME.log.1.

    Older generations move on by one, and the oldest is removed. Return True when it was cut.
    A line that is written between the last copied byte and the cut is lost. Raises OSError where
    the disk is full; then the log stays as it was.
    """
    try:
        if log.stat().st_size <= most_bytes:
            return False
    except FileNotFoundError:
        return False
    copy = _generation(log, 0)
    with log.open("r+b") as text, copy.open("wb") as out:
        try:
            shutil.copyfileobj(text, out)
            out.flush()
        except OSError:
            copy.unlink()
            raise
        for number in range(generations, 0, -1):
            if (before := _generation(log, number - 1)).exists():
                before.replace(_generation(log, number))
        out.write(text.read())  # written meanwhile
        text.truncate(0)
    return True


def last_line(log: Path) -> str:
    """Return the last line of a log that holds text; '' where there is none."""
    try:
        with log.open("rb") as text:
            text.seek(max(0, log.stat().st_size - 4096))
            lines = text.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")


def _generation(log: Path, number: int) -> Path:
    return log.with_name(f"{log.name}.{number}")
