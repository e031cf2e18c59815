"""Run one stage as a process group of its own, follow its metrics, and report how it ended."""

import contextlib
import json
import subprocess
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
from tasks.execution.run_dir_lock import POLL_SECONDS, locked, locked_if_free
from tasks.execution.stage_calls import refusal
from tasks.execution.stage_python import stage_python
from tasks.mirror import mirror
from tasks.mirror.remote import Remote
from tasks.records import events

COMMAND: tuple[str, ...] = ()  # in place of `python -m rlhf_core`, in tests
REFUSED = 2


@dataclass(frozen=True)
class StageRun:
    """A finished stage. cached: nothing ran, a finished run directory was found."""

    run_dir: Path
    result: StageResult
    cached: bool


@dataclass(frozen=True)
class _Begun:
    """A stage whose process was started. offset: where its new lines of metrics begin."""

    process: GuardedProcess
    sample: resource_usage.ResourceSampler
    offset: int


@dataclass(frozen=True)
class _Ahead:
    """A stage that was started ahead. told: what its start is to tell. lock: gives it back."""

    begun: _Begun
    told: events.StageStarted
    lock: contextlib.ExitStack


_AHEAD: dict[Path, _Ahead] = {}


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
    The same stage started twice at once runs once: the second call waits and takes the result. A
    process that was started ahead is taken over. Raises BadInput, GateRefused or Diverged as the
    stage did, BadInput for a damaged finished run, StageFailed for anything else.
    """
    with contextlib.ExitStack() as held:
        begun = _taken_over(run_dir, held)
        if begun is None:
            lock = held.enter_context(locked(run_dir))
            mirror.fetch(spec, run_dir)
            if result := finished(run_dir):
                mirror.keep(spec, run_dir)
                events.emit(events.StageStarted(spec.stage, run_dir, cached=True))
                return StageRun(run_dir, result, cached=True)
            mirror.fetch_stopped(spec, run_dir)
            continues = continue_stopped(spec, run_dir)
            events.emit(events.StageStarted(spec.stage, run_dir, continues=continues))
            begun = _begin(spec, run_dir, lock, command=command, distributed=distributed)
        try:
            _follow(begun, spec.stage, run_dir, mirror.watching(spec, run_dir, watch))
        finally:
            begun.process.end()
        result = _outcome(spec.stage, run_dir, begun.process.returncode)
        mirror.keep(spec, run_dir)
        return StageRun(run_dir, result, cached=False)


@contextlib.contextmanager
def started_ahead(
    spec: StageSpec,
    run_dir: Path,
    *,
    command: tuple[str, ...] | None = None,
    distributed: Distributed | None = None,
) -> Iterator[None]:
    """Start the stage's process at once, for the `run_stage` that is called for it in this block.

    A process that nothing has taken over ends with the block. Nothing is started for a finished
    run directory, nor for one in which another process works.
    """
    with contextlib.ExitStack() as held:
        lock = held.enter_context(locked_if_free(run_dir))
        if lock and not (run_dir / "result.json").exists():
            told = events.StageStarted(
                spec.stage, run_dir, continues=continue_stopped(spec, run_dir)
            )
            begun = _begin(spec, run_dir, lock, command=command, distributed=distributed)
            _AHEAD[run_dir] = _Ahead(begun, told, held.pop_all())
    try:
        yield
    finally:
        _end_ahead()


def is_ahead(run_dir: Path) -> bool:
    """Return True while a process that was started ahead has not been taken over."""
    return run_dir in _AHEAD


def _taken_over(run_dir: Path, held: contextlib.ExitStack) -> _Begun | None:
    """Return the stage that was started ahead in `run_dir`, with its lock in `held`; tell of it."""
    ahead = _AHEAD.get(run_dir)
    if ahead:
        events.emit(ahead.told)  # an exception here leaves it to the block that has started it
        del _AHEAD[run_dir]
        held.enter_context(ahead.lock)
    _end_ahead()  # of a spec that has changed since
    return ahead.begun if ahead else None


def _end_ahead() -> None:
    while _AHEAD:
        ahead = _AHEAD.popitem()[1]
        with ahead.lock:
            ahead.begun.process.end()


def bring(spec: StageSpec, run_dir: Path) -> None:
    """Put what the remote has of a stage into its run directory, unless a stage works in it."""
    if Remote.here() is None or (run_dir / "result.json").exists():
        return
    with locked_if_free(run_dir) as lock:
        if lock:
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


def _begin(
    spec: StageSpec,
    run_dir: Path,
    lock: TextIO,
    *,
    command: tuple[str, ...] | None,
    distributed: Distributed | None,
) -> _Begun:
    """Start the stage's process group; it holds the lock as long as it lives."""
    given = environment(ranks_here(spec, distributed))
    given |= launcher.env_file(distributed, run_dir, QUIET)
    write_atomically(run_dir / "spec.json", spec.model_dump_json(indent=2))
    for earlier in ("failure.json", STOP):
        (run_dir / earlier).unlink(missing_ok=True)
    # a resumed stage: its earlier lines are not news
    offset = new_lines(run_dir / "metrics.jsonl", 0)[1]
    words = [*(command or command_of(spec, distributed)), spec.stage]
    with (run_dir / "stage.log").open("ab") as output:
        process = GuardedProcess(
            [*words, str(run_dir / "spec.json"), str(run_dir)],
            stdout=output,
            stderr=output,
            env=given,
            pass_fds=(lock.fileno(),),
        )
    return _Begun(process, resource_usage.ResourceSampler(process.pid, run_dir), offset)


def _follow(begun: _Begun, stage: str, run_dir: Path, watch: Callable[[], None]) -> None:
    metrics, offset = run_dir / "metrics.jsonl", begun.offset
    dropped_signals.listen()
    try:
        while True:
            running = begun.process.poll() is None
            lines, offset = new_lines(metrics, offset)
            for line in lines:
                step = events.StageProgress(stage, line["step"], line["steps"], line["metrics"])
                events.emit(step)
            begun.sample()
            watch()
            dropped_signals.raise_dropped()
            if not running:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                begun.process.wait(POLL_SECONDS)
    finally:
        begun.sample.end()


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
