"""The identity of a process, which distinguishes a killed process from a slow one."""

import getpass
import os
import socket
from pathlib import Path
from typing import Literal

from rlhf_core.rundir import Frozen

# how a name is known: an account that MLflow's server has authenticated, or by its own word
Identity = Literal["account", "declared"]
PROC = Path("/proc")
_DEAD = "ZX"  # states of a process that runs no more: waiting to be reaped, gone


class ProcessIdentity(Frozen):
    """One process of one machine.

    space: the boot and the PID namespace in which the number is valid; empty where unknown.
    """

    host: str
    pid: int
    started: str  # clock ticks since boot; differs for a later process with the same number
    space: str

    @classmethod
    def current(cls) -> "ProcessIdentity":
        """Return the identity of this process."""
        return cls.of(os.getpid())

    @classmethod
    def of(cls, pid: int) -> "ProcessIdentity":
        """Return the identity of a process of this machine."""
        return cls(host=socket.gethostname(), pid=pid, started=_stat(pid)[1], space=_space())

    @property
    def is_current(self) -> bool:
        """True if it is this process."""
        return self.pid == os.getpid() and self == ProcessIdentity.current()

    def is_running(self) -> bool | None:
        """Check whether the process still runs.

        The answer is None when it cannot be seen from here: another machine or container.
        """
        if not self.space or self.space != _space():
            return None
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass  # it exists and belongs to another user
        state, started = _stat(self.pid)
        return not state or (state not in _DEAD and started == self.started)


def user() -> str:
    """Return 'user@host' of this process."""
    try:
        name = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        name = f"uid {os.getuid()}"
    return f"{name}@{socket.gethostname()}"


def _space() -> str:
    try:
        boot = (PROC / "sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
        return f"{boot} {os.readlink(PROC / 'self/ns/pid')}"
    except OSError:
        return ""


def _stat(pid: int) -> tuple[str, str]:
    """Return the state letter and start time of a process; empty where the system hides them."""
    try:
        fields = (PROC / str(pid) / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return "", ""
    return fields[0], fields[19]
