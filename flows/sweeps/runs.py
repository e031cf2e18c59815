"""Make the runs of a sweep: in turn in this process, or in parallel in processes of their own."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from flows.display.run import run_recipe
from flows.sweeps.grid import SweepPlan
from rlhf_core.errors import RLHFError
from tasks.execution.guarded_process import GuardedProcess
from tasks.execution.launcher import has_cuda
from tasks.records.run_record import MEMBERSHIP, Membership
from tasks.tracking.client import brief

POLL_SECONDS = 0.2
BAD_INPUT = 2


@dataclass(frozen=True)
class RunEnd:
    """The end of one run."""

    exit_code: int  # that of `rlhf run`
    error: str | None = None


class PrefixedStream:
    """A text stream that puts the label of a run before each line."""

    def __init__(self, stream: TextIO, prefix: str):
        self.stream, self.prefix, self._rest = stream, prefix, ""

    def write(self, text: str) -> int:
        """Write the complete lines; keep the rest for the next call."""
        *lines, self._rest = (self._rest + text).split("\n")
        for line in lines:  # one write per line, because processes share the stream
            self.stream.write(f"[{self.prefix}] {line}\n" if line else "")
        return len(text)

    def flush(self) -> None:
        """Flush the stream."""
        self.stream.flush()

    def isatty(self) -> bool:
        """Return False: progress lines are not redrawn."""
        return False

    def fileno(self) -> int:
        """Return the descriptor of the stream."""
        return self.stream.fileno()


# in turn, in this process


def run_sequentially(plan: SweepPlan, labels: list[str], jobs: int) -> Iterator[tuple[str, RunEnd]]:
    """Make the runs in turn and yield the end of each; bad input stops the sweep. jobs: 1."""
    for label in labels:
        end = run_point(
            plan.recipe, plan.settings[label], plan.sweep.until, plan.sweep.membership(label)
        )
        yield label, end
        if end.exit_code == BAD_INPUT:
            return


def run_point(recipe: str, settings: list[str], until: str, member: Membership) -> RunEnd:
    """Make one pipeline run in this process; its lines on standard error begin with its label."""
    token = MEMBERSHIP.set(member)
    try:
        with contextlib.redirect_stderr(PrefixedStream(sys.stderr, member.label)):
            error = run_recipe(recipe, settings, (None, until)).error
            if error:
                print(f"ended: {error}", file=sys.stderr)
    except RLHFError as raised:
        error = raised
    except Exception as raised:
        return RunEnd(1, f"unexpected {brief(raised)}")
    finally:
        MEMBERSHIP.reset(token)
    return RunEnd(error.exit_code, str(error)) if error else RunEnd(0)


# in parallel, each in a process of its own


def default_jobs() -> int:
    """Return the number of GPUs; 1 on a CPU, where each stage uses all cores."""
    return max(1, len(_gpus()))


def _gpus() -> list[str]:
    if not has_cuda():
        return []
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [name for name in named.split(",") if name]
    return [str(index) for index in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]


def run_in_parallel(plan: SweepPlan, labels: list[str], jobs: int) -> Iterator[tuple[str, RunEnd]]:
    """Make up to `jobs` runs at a time and yield the end of each.

    After bad input no further run starts. All runs end with this process.
    """
    waiting, go_on = list(labels), True
    running: dict[str, tuple[GuardedProcess, int]] = {}  # label -> process, slot
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        while running or (waiting and go_on):
            while go_on and waiting and len(running) < jobs:
                label = waiting.pop(0)
                slot = min(set(range(jobs)) - {slot for _, slot in running.values()})
                running[label] = (_start(plan, label, slot, jobs), slot)
            time.sleep(POLL_SECONDS)
            ended = [label for label, (child, _) in running.items() if child.poll() is not None]
            for label in ended:
                end = _end_of(running.pop(label)[0])
                go_on = go_on and end.exit_code != BAD_INPUT
                yield label, end
    finally:
        signal.signal(signal.SIGTERM, before)
        for child, _ in running.values():
            child.end()


def _start(plan: SweepPlan, label: str, slot: int, jobs: int) -> GuardedProcess:
    task = [
        plan.recipe,
        plan.settings[label],
        plan.sweep.until,
        plan.sweep.membership(label).model_dump(),
    ]
    # P: a file of the current folder must not take a library's place
    command = [sys.executable, "-Pm", "flows.sweeps.runs", json.dumps(task)]
    return GuardedProcess(command, stdout=subprocess.PIPE, env=_environment(slot, jobs))


def _environment(slot: int, jobs: int) -> dict[str, str]:
    """Return the environment of one of `jobs` runs: a GPU, or its share of the cores."""
    gpus = _gpus()
    if len(gpus) >= jobs:
        return os.environ | {"CUDA_VISIBLE_DEVICES": gpus[slot]}
    return {"OMP_NUM_THREADS": str(max(1, len(os.sched_getaffinity(0)) // jobs))} | os.environ


def _end_of(child: GuardedProcess) -> RunEnd:
    assert child.stdout is not None, "it is a pipe"
    lines = child.stdout.read().strip().splitlines()
    child.end()
    try:
        return RunEnd(**json.loads(lines[-1]))
    except (IndexError, ValueError, TypeError):
        return RunEnd(1, f"its process ended with exit code {child.returncode} and said nothing")


def main(text: str) -> int:
    """Make the run that `python -m flows.sweeps.runs TASK` names; print its end as JSON."""
    recipe, settings, until, member = json.loads(text)
    end = run_point(recipe, settings, until, Membership(**member))
    print(json.dumps(vars(end)), flush=True)
    return end.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
