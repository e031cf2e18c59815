"""Processes that outlive the test that started them."""

import contextlib
import os
import time
from uuid import uuid4

import psutil

MARKER = "RLHF_TEST_SESSION"  # in the environment of every process that this session starts
TEST = "PYTEST_CURRENT_TEST"  # set by pytest; the process inherits it
GRACE_SECONDS = 20.0  # guards end their group within 10 s after their parent's death


def mark() -> None:
    """Give every process that is started from now on the mark of this session."""
    os.environ[MARKER] = uuid4().hex


def end_left() -> list[str]:
    """End the marked processes that no test's process has as a child any more; describe them.

    A child of this very process, as Prefect's server of in-process runs is, ends with it.
    """
    deadline = time.monotonic() + GRACE_SECONDS
    while (left := _left()) and time.monotonic() < deadline:
        time.sleep(0.5)
    described = [_description(process) for process in left]
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(left, timeout=GRACE_SECONDS)
    return described


def _left() -> list[psutil.Process]:
    own = {child.pid for child in psutil.Process().children(recursive=True)}
    return [
        process
        for process in psutil.process_iter()
        if process.pid not in own and process.pid != os.getpid() and _is_marked(process)
    ]


def _is_marked(process: psutil.Process) -> bool:
    try:
        alive = process.status() != psutil.STATUS_ZOMBIE
        return alive and process.environ().get(MARKER) == os.environ[MARKER]
    except (psutil.Error, OSError):
        return False


def _description(process: psutil.Process) -> str:
    try:
        test = process.environ().get(TEST, "a fixture")
        return f"{process.pid} of {test}: {' '.join(process.cmdline())[:300]}"
    except (psutil.Error, OSError):
        return f"{process.pid}, which has ended meanwhile"
