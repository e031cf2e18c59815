"""Start a command as a process group of its own that ends when this process ends."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

from tasks.execution import group_guard


class GuardedProcess(subprocess.Popen[bytes]):
    """A command in a process group of its own, which a guard ends with this process.

    The group gets no Ctrl-C of the terminal. Signals reach the whole group, the guard's child too.
    options: those of subprocess.Popen, except standard input, which the guard needs.
    """

    before: tuple[str, ...] = ()  # a command that runs the guard in place of this process

    def __init__(self, command: Sequence[str], **options: Any):
        super().__init__(
            [*self.before, sys.executable, "-P", group_guard.__file__, *command],
            stdin=subprocess.PIPE,
            start_new_session=True,
            **options,
        )

    def send_signal(self, sig: int) -> None:
        """Send a signal to the group; nothing when the group has ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, sig)

    def terminate(self) -> None:
        """Send SIGTERM to the group."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the group, also to what is left of it after its leader has ended."""
        self.send_signal(signal.SIGKILL)

    def end(self, grace_seconds: float = group_guard.GRACE_SECONDS) -> None:
        """End the group: SIGTERM first, SIGKILL to what is left after the grace time."""
        try:
            if self.poll() is None:
                self.terminate()
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self.wait(grace_seconds)
        finally:  # also a straggler of a command that has ended, or one that ignores SIGTERM
            self.kill()
            assert self.stdin is not None  # started with a pipe
            self.stdin.close()
            self.wait()
