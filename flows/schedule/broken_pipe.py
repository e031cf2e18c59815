"""What a deployed run does when the worker that reads its output is killed: it goes on."""

import os
import select
import threading

OUTPUTS = (1, 2)  # standard output and standard error


def outlive_reader() -> None:
    """From now on, send this process's output to nowhere once nobody reads it.

    A worker reads the output of its runs through pipes. After its death the next line of the log
    would end the run: rich, with which Prefect logs, exits on a broken pipe. Prefect's server goes
    on getting the log.
    """
    threading.Thread(target=_watch, name="outlive-reader", daemon=True).start()


def _watch() -> None:
    poll, watched = select.poll(), set(OUTPUTS)
    for output in watched:
        poll.register(output, 0)  # asks for nothing: a reader that is gone is told all the same
    while watched:
        for output, _ in poll.poll():
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, output)
            os.close(nowhere)
            poll.unregister(output)
            watched.discard(output)
