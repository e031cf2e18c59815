"""Collect garbage rarely while a process imports its libraries.

Imports make objects that stay. Python's collector looks through them again and again, a fifth of
the time that the imports of a stage or a command take.
"""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

# new objects before a collection, and collections of a generation before one of the next older
RARE = (50_000, 20, 50)


def collect_rarely() -> None:
    """Collect garbage rarely in this process, from now on."""
    gc.set_threshold(*RARE)


@contextmanager
def collecting_rarely() -> Iterator[None]:
    """Collect garbage rarely in this block; what it leaves is never looked through again."""
    usual = gc.get_threshold()
    collect_rarely()
    try:
        yield
    finally:
        gc.freeze()
        gc.set_threshold(*usual)
