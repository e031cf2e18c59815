"""What a signal handler raises while a weak reference's callback or a destructor runs, which Python
drops: heard all the same.

Prefect and Ctrl-C end a run by an exception from a signal handler. Python only prints it there
("Exception ignored in"), and the run would go on until it is killed.
"""

import functools
import sys
import threading

_dropped: list[BaseException] = []


@functools.cache
def listen() -> None:
    """From now on, keep what is dropped and is no error (KeyboardInterrupt, Prefect's
    TerminationSignal). Again: no change.
    """
    before = sys.unraisablehook

    def keep(found) -> None:
        if found.exc_value is not None and not isinstance(found.exc_value, Exception):
            _dropped.append(found.exc_value)
        before(found)

    sys.unraisablehook = keep


def raise_dropped() -> None:
    """Raise what was dropped since the last call; signals are the main thread's business."""
    if _dropped and threading.current_thread() is threading.main_thread():
        error = _dropped[0]
        _dropped.clear()
        raise error
