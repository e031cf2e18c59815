"""Processes that take one measured step each in turn, and the order in which they do."""

import contextlib
import json
import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from turns import PIPES

TURN_SECONDS = 1800  # after which a process counts as hung
LOG_LINES = 15


class BenchFailed(Exception):
    """A measured process ended, or hung, before it had reported its step."""


@dataclass(frozen=True)
class Program:
    """A program that takes measured steps. gib: about its peak memory."""

    label: str
    command: tuple[str, ...]
    environment: dict[str, str]
    gib: float


@dataclass
class Measured:
    """The steps that a program took, and the peak memory of each of its processes, GiB."""

    steps: list[dict[str, float]] = field(default_factory=list)
    peaks: list[float] = field(default_factory=list)


class MeasuredProcess:
    """A program that runs, waiting for its next turn."""

    def __init__(self, program: Program, log: Path):
        """Start it; return when its first step, which only warms it up, is done."""
        self.program, self._log = program, log
        (inbox, ask), (answers, outbox) = os.pipe(), os.pipe()
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                program.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=program.environment | {PIPES: f"{inbox},{outbox}"},
                pass_fds=(inbox, outbox),
                start_new_session=True,
            )
        os.close(inbox)
        os.close(outbox)
        self._ask, self._answers = (
            os.fdopen(ask, "w", encoding="utf-8"),
            os.fdopen(answers, encoding="utf-8"),
        )
        try:
            self._answer()
        except BaseException:
            self.kill()
            raise

    def turn(self) -> dict[str, float]:
        """Let the process take a step; return its numbers."""
        self._say("go")
        return self._answer()

    def stop(self) -> float:
        """End the process; return its peak memory, GiB."""
        self._say("stop")
        peak = self._answer()["peak_gib"]
        self._process.wait()
        return peak

    def kill(self) -> None:
        """End the process and its children, whatever they do."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._ask.close()
        self._answers.close()

    def _say(self, word: str) -> None:
        with contextlib.suppress(BrokenPipeError):  # _answer says how it ended
            self._ask.write(f"{word}\n")
            self._ask.flush()

    def _answer(self) -> dict[str, float]:
        ready, *_ = select.select([self._answers], [], [], TURN_SECONDS)
        line = self._answers.readline() if ready else ""
        if line:
            return json.loads(line)
        how = "ended" if ready else f"gave no answer for {TURN_SECONDS} s"
        last = self._log.read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
        raise BenchFailed(
            f"{self.program.label} {how}; expected a step. Its log is {self._log}, the last lines"
            " are:\n  " + "\n  ".join(last)
        )


def measure(
    programs: Sequence[Program], logs: Path, *, repeats: int
) -> tuple[dict[str, Measured], bool]:
    """Let the programs take `repeats` steps each, in turn (A B C A B C ...).

    Returns what each did by label, and True if all processes lived side by side. Where memory does
    not hold them all, each round starts them anew, one after the other.
    """
    found = {program.label: Measured() for program in programs}
    together = sum(program.gib for program in programs) < available_gib()
    with contextlib.ExitStack() as running:
        if together:
            processes = [running.enter_context(_started(program, logs)) for program in programs]
            for _ in range(repeats):
                for process in processes:
                    found[process.program.label].steps.append(process.turn())
            for process in processes:
                found[process.program.label].peaks.append(process.stop())
            return found, together
    for _ in range(repeats):
        for program in programs:
            with _started(program, logs) as process:
                found[program.label].steps.append(process.turn())
                found[program.label].peaks.append(process.stop())
    return found, together


@contextlib.contextmanager
def _started(program: Program, logs: Path) -> Iterator[MeasuredProcess]:
    began = time.monotonic()
    process = MeasuredProcess(program, logs / f"{program.label.replace(' ', '-')}.log")
    print(f"    {program.label}: ready after {time.monotonic() - began:.0f} s", flush=True)
    try:
        yield process
    finally:
        process.kill()


def available_gib() -> float:
    """Return the memory that new processes can take, GiB."""
    lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    values = {line.split(":")[0]: int(line.split()[1]) for line in lines}
    return values["MemAvailable"] / 2**20
