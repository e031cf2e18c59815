"""A lock between the processes and threads of one machine."""

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked(file: Path) -> Iterator[None]:
    """Hold the lock `file` during the block; wait while another process or thread holds it.

    The file is made when absent, in a folder that exists, and stays. The system frees the lock when
    its process dies.
    """
    with file.open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
