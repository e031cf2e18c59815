"""`python group_guard.py COMMAND...`: run a command, and end its group when the parent dies.

The command runs in the process group of this program. The parent holds the other end of standard
input; its death closes that pipe, whatever killed it.
(PR_SET_PDEATHSIG would reach only the direct child, and fires when the *thread* that started it
ends.) Standard library only: it starts fast.
"""

import os
import signal
import subprocess
import sys
import threading
import time

GRACE_SECONDS = 10.0


def _end_group_when_parent_dies() -> None:
    while os.read(0, 1):
        pass
    os.killpg(0, signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def main(command: list[str]) -> int:
    """Run `command` and return its exit code, or 128 + the signal that ended it."""
    # outlive the group's TERM, to report how the command ended
    signal.signal(signal.SIGTERM, lambda *_: None)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=_end_group_when_parent_dies, daemon=True).start()
    code = child.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
