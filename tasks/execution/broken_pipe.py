"""Let a deployed run go on when the worker that reads its output is killed."""

import os
import select
import threading

OUTPUTS = (1, 2)  # standard output and standard error


def outlive_reader() -> None:
    """Send this process's output to /dev/null from the moment that nobody reads it.

    A worker reads the output of its runs through pipes. After its death the next line of the log
    would end the run: Prefect logs with rich, and rich exits on a broken pipe. Prefect's server
    still gets the log.
    """
    threading.Thread(target=_watch, name="outlive-reader", daemon=True).start()


def _watch() -> None:
    poll, watched = select.poll(), set(OUTPUTS)
    for output in watched:
        poll.register(output, 0)  # no event is asked for: a closed reader is always reported
    while watched:
        for output, _ in poll.poll():
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)
            poll.unregister(output)
            watched.discard(output)
