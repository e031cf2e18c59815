"""Run one stage as a process group of its own, follow its metrics, and report how it ended."""

import contextlib
import fcntl
import json
import os
import subprocess
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

from rlhf_core.config import Distributed
from rlhf_core.errors import LAST_LINES, BadInput, LimitReached, StageFailed
from rlhf_core.rundir import STOP, StageResult, StageSpec, new_lines, read_result, write_atomically
from tasks.execution import dropped_signals, launcher, resource_usage
from tasks.execution.continuation import continue_stopped
from tasks.execution.guarded_process import GuardedProcess
from tasks.execution.launcher import QUIET, environment
from tasks.execution.stage_calls import refusal
from tasks.execution.stage_python import stage_python
from tasks.mirror import mirror
from tasks.mirror.remote import Remote
from tasks.records import events

COMMAND: tuple[str, ...] = ()  # in place of `python -m rlhf_core`, in tests
REFUSED = 2
POLL_SECONDS = 0.2


@dataclass(frozen=True)
class StageRun:
    """A finished stage. cached: nothing ran, a finished run directory was found."""

    run_dir: Path
    result: StageResult
    cached: bool


def run_stage(
    spec: StageSpec,
    run_dir: Path,
    *,
    watch: Callable[[], None] = lambda: None,
    command: tuple[str, ...] | None = None,
    distributed: Distributed | None = None,
) -> StageRun:
    """Run `command STAGE SPEC RUN_DIR` unless `run_dir` is finished, here or in the remote.

    watch: called a few times per second while the stage runs. distributed: how several ranks start.
    The same stage started twice at once runs once: the second call waits and takes the result.
    Raises BadInput, GateRefused or Diverged as the stage did, BadInput for a damaged finished run,
    StageFailed for anything else.
    """
    with _lock(run_dir) as lock:
        try:
            mirror.fetch(spec, run_dir)
            if result := finished(run_dir):
                mirror.keep(spec, run_dir)
                events.emit(events.StageStarted(spec.stage, run_dir, cached=True))
                return StageRun(run_dir, result, cached=True)
            mirror.fetch_stopped(spec, run_dir)
            stopped = continue_stopped(spec, run_dir)
            events.emit(events.StageStarted(spec.stage, run_dir, continues=stopped))
            given = environment(ranks_here(spec, distributed)) | launcher.env_file(
                distributed, run_dir, QUIET
            )
            start = _Start([*(command or command_of(spec, distributed))], given, lock.fileno())
            watch = mirror.watching(spec, run_dir, watch)
            result = _run(spec, run_dir, start, watch)
            mirror.keep(spec, run_dir)
            return StageRun(run_dir, result, cached=False)
        finally:
            fcntl.flock(lock, fcntl.LOCK_UN)


def bring(spec: StageSpec, run_dir: Path) -> None:
    """Put what the remote has of a stage into its run directory, unless a stage works in it."""
    if Remote.here() is None or (run_dir / "result.json").exists():
        return
    run_dir.mkdir(parents=True, exist_ok=True)
    lock = run_dir / ".lock"
    with lock.open("w", encoding="utf-8") as file, contextlib.suppress(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        mirror.fetch(spec, run_dir)


def command_of(spec: StageSpec, distributed: Distributed | None) -> tuple[str, ...]:
    """Return the command that starts the stage on this host, before STAGE SPEC RUN_DIR."""
    if spec.ranks > 1:
        return launcher.command(spec, distributed or Distributed())
    return COMMAND or (stage_python(), "-m", "rlhf_core")


def ranks_here(spec: StageSpec, distributed: Distributed | None) -> int:
    """Return the ranks that share this host's cores, as far as it is known here."""
    here = distributed is not None and distributed.launcher != "ray"
    return distributed.ranks if distributed and here and spec.ranks > 1 else 1


def finished(run_dir: Path) -> StageResult | None:
    """Return the result of a finished run directory, None while it is unfinished.

    Raises BadInput when the bytes of an output are damaged.
    """
    result = read_result(run_dir)
    for name, output in (result.outputs if result else {}).items():
        try:
            output.verified()
        except BadInput as error:
            raise BadInput(
                f"output {name!r} of {run_dir} is damaged ({error}). Delete {run_dir} and run"
                " again.",
                code="RLHF-F001",
            ) from None
    return result


def last_lines(log: Path, count: int = LAST_LINES) -> list[str]:
    """Return the end of a log file; it is empty without a file."""
    if not log.exists():
        return []
    with log.open(errors="replace", encoding="utf-8") as file:
        return [line.rstrip("\n") for line in deque(file, maxlen=count)]


def _lock(run_dir: Path) -> TextIO:
    """Lock a run directory and return the open lock file.

    Both are created anew when `rlhf gc` has removed them while this process waited.
    """
    while True:
        run_dir.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            lock = (run_dir / ".lock").open("w", encoding="utf-8")
            _wait_for(lock.fileno())
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock.fileno()), (run_dir / ".lock").stat()):
                    return lock
            lock.close()


def _wait_for(lock: int) -> None:
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        time.sleep(POLL_SECONDS)


@dataclass(frozen=True)
class _Start:
    """The start of a stage's process. lock: a file descriptor that it holds as long as it lives."""

    command: list[str]
    environment: dict[str, str]
    lock: int


def _run(spec: StageSpec, run_dir: Path, start: _Start, watch: Callable[[], None]) -> StageResult:
    write_atomically(run_dir / "spec.json", spec.model_dump_json(indent=2))
    for earlier in ("failure.json", STOP):
        (run_dir / earlier).unlink(missing_ok=True)
    arguments = [spec.stage, str(run_dir / "spec.json"), str(run_dir)]
    with _group(start, arguments, run_dir / "stage.log") as process:
        _follow(process, spec.stage, run_dir, watch)
    return _outcome(spec.stage, run_dir, process.returncode)


@contextlib.contextmanager
def _group(start: _Start, arguments: list[str], log: Path) -> Iterator[GuardedProcess]:
    """Start a process group that ends with the block, and with this process.

    It holds the lock as long as it lives.
    """
    with log.open("ab") as output:
        process = GuardedProcess(
            [*start.command, *arguments],
            stdout=output,
            stderr=output,
            env=start.environment,
            pass_fds=(start.lock,),
        )
    try:
        yield process
    finally:
        process.end()


def _follow(
    process: subprocess.Popen, stage: str, run_dir: Path, watch: Callable[[], None]
) -> None:
    metrics = run_dir / "metrics.jsonl"
    sample = resource_usage.ResourceSampler(process.pid, run_dir)
    dropped_signals.listen()
    offset = new_lines(metrics, 0)[1]  # a resumed stage: its earlier lines are not news
    try:
        while True:
            running = process.poll() is None
            lines, offset = new_lines(metrics, offset)
            for line in lines:
                step = events.StageProgress(stage, line["step"], line["steps"], line["metrics"])
                events.emit(step)
            sample()
            watch()
            dropped_signals.raise_dropped()
            if not running:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_SECONDS)
    finally:
        sample.end()


def _outcome(stage: str, run_dir: Path, code: int) -> StageResult:
    if code == 0 and (result := read_result(run_dir)):
        return result
    if code == REFUSED and (run_dir / "failure.json").exists():
        failure = json.loads((run_dir / "failure.json").read_text(encoding="utf-8"))
        error = refusal(failure["error"], failure["message"], failure.get("code"))
    else:
        error = StageFailed(_failure(stage, run_dir, code))
    if isinstance(error, LimitReached):  # it was asked to
        raise error
    log = run_dir / "stage.log"
    events.emit(
        events.StageAborted(stage, str(error).split("; its log is")[0], log, last_lines(log))
    )
    raise error


def _failure(stage: str, run_dir: Path, code: int) -> str:
    how = f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"
    if code == 0:
        how = "ended without writing result.json"
    log = run_dir / "stage.log"
    return "\n  ".join(
        [f"stage {stage} {how}; its log is {log}, the last lines are:", *last_lines(log)]
    )
