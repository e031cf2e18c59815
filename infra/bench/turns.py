"""The side of a measured process in `make bench`: it takes one step each time that it is asked to.

Only the standard library is used, because TRL's environment imports this module too. Each process
reports its first step, which only warms it up, and then waits. It takes a step per line "go", and
ends with its peak memory when the other side says "stop" or is gone.
"""

import json
import os
import re
import sys
import time
from pathlib import Path
from typing import Protocol, TextIO

PIPES = "BENCH_PIPES"  # variable with the two file descriptors: to read from, to write to


class Turns(Protocol):
    """The turns of a measured process."""

    taken: int  # steps that are done; 0 during the step that only warms up

    def done(self, **numbers: float) -> None:
        """Report the step that is done, with `numbers` about it; return when the next is due."""


class PipedTurns(Turns):
    """Turns that the parent process gives over pipes."""

    def __init__(self) -> None:
        inbox, outbox = map(int, os.environ.pop(PIPES).split(","))
        self.taken = 0
        self._inbox: TextIO = os.fdopen(inbox, encoding="utf-8")
        self._outbox: TextIO = os.fdopen(outbox, "w", encoding="utf-8")
        self._began = clocks()

    def done(self, **numbers: float) -> None:
        """Report the step that is done, with its seconds; return when the next is due."""
        self._say(since(self._began) | numbers)
        self.taken += 1
        if self._inbox.readline().strip() != "go":
            self._say({"peak_gib": peak_gib()})
            sys.stdout.flush()
            os._exit(0)  # nothing is to be saved, and libraries take seconds to close
        self._began = clocks()

    def _say(self, numbers: dict[str, float]) -> None:
        self._outbox.write(json.dumps(numbers) + "\n")
        self._outbox.flush()


class Enough(BaseException):
    """The end of a step loop that has no end of its own; no library may catch it."""


class CountedTurns(Turns):
    """Turns in this process: the loop that reports them ends with Enough after `count` of them."""

    def __init__(self, count: int) -> None:
        self.taken, self.steps = 0, []
        self._count, self._began = count, clocks()

    def done(self, **numbers: float) -> None:
        """Keep the step that is done. Raises Enough after the last one."""
        self.steps.append(since(self._began) | numbers)
        self.taken += 1
        if self.taken > self._count:
            raise Enough
        self._began = clocks()


def clocks() -> tuple[float, float]:
    """Return the time, and the processors' time that this process has taken, seconds."""
    return time.monotonic(), time.process_time()


def since(began: tuple[float, float]) -> dict[str, float]:
    """Return the seconds of a step, and the processors' seconds of all its threads.

    On a machine that other programs use, the second is what the step itself costs.
    """
    now = clocks()
    return {"step": now[0] - began[0], "cpu": now[1] - began[1]}


def peak_gib() -> float:
    """Return the largest resident memory of this process so far, GiB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    found = re.search(r"^VmHWM:\s+(\d+) kB", status, flags=re.MULTILINE)
    assert found  # Linux always has it
    return int(found[1]) / 2**20
