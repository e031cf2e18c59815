"""The processes that carry a marker in their environment: found, and ended."""

import contextlib
import os
import signal

import psutil

from tasks.records.process_identity import ProcessIdentity

STOP_SECONDS = 30.0  # a flow run ends its stage and tells Prefect


def marked(name: str, value: str, group: int | None = None) -> list[psutil.Process]:
    """Return the live processes whose environment variable `name` is `value`.

    group: those of this process group alone.
    """
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError, PermissionError):
            alive = process.status() != psutil.STATUS_ZOMBIE and group in (
                None,
                os.getpgid(process.pid),
            )
            if alive and process.environ().get(name) == value:
                found.append(process)
    return found


def group_of(owner: ProcessIdentity) -> list[psutil.Process]:
    """Return the live processes of the group that a process leads or has led.

    A process that writes a title, as vLLM's engine does, loses its environment, and with it its
    marker. No id is given out anew while a group has it. So another process with the owner's id is
    the sign that the group is over. So is another boot or container, whose ids mean nothing here.
    """
    if owner.is_running() is None:
        return []
    if psutil.pid_exists(owner.pid) and owner.is_running() is False and not _is_zombie(owner.pid):
        return []
    return in_groups({owner.pid})


def in_groups(groups: set[int]) -> list[psutil.Process]:
    """Return the live processes of these process groups."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            if os.getpgid(process.pid) in groups and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(psutil.Error):
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    return False


def end_group(owner: ProcessIdentity) -> bool:
    """Send TERM to the group that a process leads, and return True if the process ran.

    Another process that has got its process id is left alone.
    """
    runs = bool(owner.is_running())
    if runs:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(owner.pid, signal.SIGTERM)
    return runs


def end_all(
    processes: list[psutil.Process], *, sent: bool = False, seconds: float = STOP_SECONDS
) -> None:
    """Send TERM, unless that is `sent` already, then KILL to what is left after the grace time."""
    for process in processes if not sent else []:
        with contextlib.suppress(psutil.Error):
            process.terminate()
    left = psutil.wait_procs(processes, timeout=seconds)[1]
    for process in left:
        with contextlib.suppress(psutil.Error):
            process.kill()
    psutil.wait_procs(left, timeout=5)
