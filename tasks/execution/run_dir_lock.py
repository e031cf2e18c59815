"""The lock of a run directory, which a stage's process holds as long as it lives."""

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

POLL_SECONDS = 0.2


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[TextIO]:
    """Lock a run directory, and give the open lock file; wait while another process holds it."""
    while (lock := _lock(run_dir)) is None:
        time.sleep(POLL_SECONDS)
    with _unlocking(lock):
        yield lock


@contextlib.contextmanager
def locked_if_free(run_dir: Path) -> Iterator[TextIO | None]:
    """Lock a run directory as `locked` does; give None at once when another process holds it."""
    if (lock := _lock(run_dir)) is None:
        yield None
        return
    with _unlocking(lock):
        yield lock


@contextlib.contextmanager
def _unlocking(lock: TextIO) -> Iterator[None]:
    with lock:
        try:
            yield
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)  # also for a child that has inherited it


def _lock(run_dir: Path) -> TextIO | None:
    """Return the open lock file; None when another process holds it.

    Directory and file are made when absent, and anew where `rlhf gc` has removed them meanwhile.
    """
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            lock = (run_dir / ".lock").open("w", encoding="utf-8")
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                lock.close()
                return None
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (run_dir / ".lock").stat()):
                    return lock
            lock.close()
