"""Prepare the process of a command for the ways in which shells and scripts start it."""

import os
import signal


def prepare() -> None:
    """Open the standard streams that are closed, and heed an interrupt that is ignored."""
    open_closed_streams()
    heed_interrupt()


def open_closed_streams() -> None:
    """Open /dev/null for each standard stream that the caller has closed, as `rlhf ... >&-` does.

    The next files and sockets would take their numbers otherwise, and Prefect's server, which
    inherits them, does not start without standard output.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            null = os.open(os.devnull, os.O_RDWR)  # the lowest number that is free
            os.set_inheritable(null, True)


def heed_interrupt() -> None:
    """End at Ctrl-C also where the interrupt (SIGINT) is ignored.

    A shell script starts its background commands so, and their children inherit it.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
