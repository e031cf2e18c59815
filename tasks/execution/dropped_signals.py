"""Re-raise KeyboardInterrupt and SIGTERM that Python drops in destructors and weakref callbacks.

Prefect and Ctrl-C end a run by an exception from a signal handler. In a destructor or a callback
Python only prints it ("Exception ignored in"), and the run would go on until it is killed.
"""

import functools
import sys
import threading

_dropped: list[BaseException] = []


@functools.cache
def listen() -> None:
    """Keep from now on the dropped exceptions that are no errors; a second call changes nothing.

    These are KeyboardInterrupt and Prefect's TerminationSignal.
    """
    before = sys.unraisablehook

    def keep(found: "sys.UnraisableHookArgs") -> None:
        if found.exc_value is not None and not isinstance(found.exc_value, Exception):
            _dropped.append(found.exc_value)  # and say nothing: it is raised again
        else:
            before(found)

    sys.unraisablehook = keep


def raise_dropped() -> None:
    """Raise the exception dropped since the last call, in the main thread, which gets signals."""
    if _dropped and threading.current_thread() is threading.main_thread():
        error = _dropped[0]
        _dropped.clear()
        raise error
