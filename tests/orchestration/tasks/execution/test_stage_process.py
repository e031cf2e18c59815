"""A stage process: results, refusals, crashes, cancellation, locks.

The stages are small real scripts.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import weakref
from pathlib import Path

import psutil
import pytest

from rlhf_core.errors import BadInput, Diverged, GateRefused, StageFailed
from rlhf_core.rundir import StageSpec
from tasks.execution.run_dir_lock import locked
from tasks.execution.stage_process import is_ahead, run_stage, started_ahead
from tasks.records import events

SPEC = StageSpec(stage="sft", seed=1, config={}, inputs={}, code="c")
STEPS = """
    import json, sys, time, pathlib, subprocess, os
    run = pathlib.Path(sys.argv[3])
    def log(step, steps=3):
        metrics = {"sft/loss": 1.0 / step}
        line = {"step": step, "steps": steps, "time": 1.0 + step, "metrics": metrics}
        with (run / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\\n")
    def finish():
        (run / "model").mkdir(exist_ok=True)
        (run / "model" / "weights").write_text("w")
        from rlhf_core.rundir import Artifact
        digest = Artifact.of(run / "model").digest
        result = {"stage": "sft", "digest": "d", "seconds": 0.5,
                  "metrics": {"sft/heldout_loss": 1.0},
                  "outputs": {"model": {"path": "model", "digest": digest}}}
        (run / "result.json").write_text(json.dumps(result))
"""
SLEEPERS = """
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(300)"])
    (run / "pids").write_text(f"{os.getpid()} {child.pid}")
    log(1)
    time.sleep(300)
"""


def script(folder: Path, body: str) -> tuple[str, ...]:
    file = folder / "stage.py"
    file.write_text(textwrap.dedent(STEPS) + textwrap.dedent(body))
    return (sys.executable, str(file))


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):  # it may end at any moment
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False


def wait_until(condition, seconds: float = 15.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


@pytest.fixture
def heard():
    seen = []
    end = events.subscribe(seen.append)
    yield seen
    end()


def test_a_stage_gives_its_result_and_tells_every_step(tmp_path, heard):
    body = "print('hello log'); log(1); log(2); log(3); finish()"
    done = run_stage(SPEC, tmp_path / "run", command=script(tmp_path, body))
    assert done.result.metrics == {"sft/heldout_loss": 1.0} and not done.cached
    assert [event.step for event in heard if isinstance(event, events.StageProgress)] == [1, 2, 3]
    assert "hello log" in (tmp_path / "run" / "stage.log").read_text()
    assert StageSpec.model_validate_json((tmp_path / "run" / "spec.json").read_text()) == SPEC


def test_a_finished_run_directory_returns_at_once(tmp_path, heard):
    command = script(tmp_path, "finish()")
    run_stage(SPEC, tmp_path / "run", command=command)
    again = run_stage(SPEC, tmp_path / "run", command=("false",))
    assert again.cached and heard[-1] == events.StageStarted("sft", tmp_path / "run", cached=True)


def test_a_damaged_finished_run_is_refused_by_name(tmp_path):
    run_stage(SPEC, tmp_path / "run", command=script(tmp_path, "finish()"))
    (tmp_path / "run" / "model" / "weights").write_text("other")
    with pytest.raises(BadInput, match=f"Delete {tmp_path / 'run'} and run again"):
        run_stage(SPEC, tmp_path / "run", command=("false",))


@pytest.mark.parametrize("kind", [BadInput, GateRefused, Diverged])
def test_exit_code_2_raises_the_error_the_stage_named(tmp_path, kind):
    body = f"""
    failure = {{"stage": "sft", "error": "{kind.__name__}", "message": "what was found"}}
    (run / "failure.json").write_text(json.dumps(failure)); sys.exit(2)
    """
    with pytest.raises(kind, match=r"^what was found$") as raised:
        run_stage(SPEC, tmp_path / "run", command=script(tmp_path, body))
    assert type(raised.value) is kind


@pytest.mark.parametrize(
    ("body", "how"),
    [
        ("print('line before'); sys.exit(1)", "exit code 1"),
        ("sys.exit(2)", "exit code 2"),  # Python's own 2, no failure.json: not a refusal
        ("os.kill(os.getpid(), 9)", "signal 9"),
        ("pass", "without writing result.json"),
    ],
)
def test_anything_else_is_a_failure_with_log_and_last_lines(tmp_path, heard, body, how):
    with pytest.raises(StageFailed, match=how) as raised:
        run_stage(SPEC, tmp_path / "run", command=script(tmp_path, body))
    assert str(tmp_path / "run" / "stage.log") in str(raised.value)
    assert (
        isinstance(heard[-1], events.StageAborted)
        and heard[-1].log == tmp_path / "run" / "stage.log"
    )
    if "line before" in body:
        assert heard[-1].last_lines == ["line before"]


def test_an_exception_in_the_parent_ends_the_whole_group(tmp_path):
    run = tmp_path / "run"

    def watch():
        if (run / "pids").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_stage(SPEC, run, command=script(tmp_path, SLEEPERS), watch=watch)
    assert not any(alive(int(pid)) for pid in (run / "pids").read_text().split())


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_ctrl_c_ends_the_stage_also_where_python_drops_it(tmp_path):
    """In a weak reference's callback Python only prints an exception, a signal handler's too."""
    run = tmp_path / "run"

    class Short:
        pass

    def watch():
        if (run / "pids").exists() and not signalled:
            short = Short()
            signalled.append(weakref.ref(short, lambda _: signal.raise_signal(signal.SIGINT)))
            del short

    signalled = []
    with pytest.raises(KeyboardInterrupt):
        run_stage(SPEC, run, command=script(tmp_path, SLEEPERS), watch=watch)
    assert not any(alive(int(pid)) for pid in (run / "pids").read_text().split())


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_parent_ends_the_whole_group(tmp_path, how):
    command = script(tmp_path, SLEEPERS)
    code = f"""
    from pathlib import Path
    from rlhf_core.rundir import StageSpec
    from tasks.execution.stage_process import run_stage
    spec = StageSpec(stage="sft", seed=1, config={{}}, inputs={{}}, code="c")
    run_stage(spec, Path({str(tmp_path / "run")!r}), command={command!r})
    """
    parent = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)])
    wait_until((tmp_path / "run" / "pids").exists)
    wait_until(lambda: len((tmp_path / "run" / "pids").read_text().split()) == 2)
    pids = [int(pid) for pid in (tmp_path / "run" / "pids").read_text().split()]
    os.kill(parent.pid, how)
    parent.wait()
    wait_until(lambda: not any(map(alive, pids)))


def test_the_same_stage_started_twice_at_once_runs_once(tmp_path):
    body = "(run / 'starts').open('a').write('x'); log(1); time.sleep(1); finish()"
    command = script(tmp_path, body)
    done = []
    threads = [
        threading.Thread(
            target=lambda: done.append(run_stage(SPEC, tmp_path / "run", command=command))
        )
        for _ in "ab"
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "run" / "starts").read_text() == "x"
    assert sorted(run.cached for run in done) == [False, True] and done[0].result == done[1].result


def test_a_resumed_stage_tells_only_what_is_new(tmp_path, heard):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 1, "steps": 2, "time": 1.0, "metrics": {}}) + "\n"
    )
    run_stage(SPEC, run, command=script(tmp_path, "log(2, 2); finish()"))
    assert [event.step for event in heard if isinstance(event, events.StageProgress)] == [2]


def test_a_process_that_was_started_ahead_is_taken_over_with_all_that_it_tells(tmp_path, heard):
    run, command = tmp_path / "run", script(tmp_path, "log(1); log(2); finish()")
    with started_ahead(SPEC, run, command=command):
        wait_until((run / "result.json").exists)  # it may even end before it is asked for
        assert is_ahead(run) and heard == []
        done = run_stage(SPEC, run, command=("false",))
        assert not is_ahead(run)
    assert done.result.metrics == {"sft/heldout_loss": 1.0} and not done.cached
    assert heard[0] == events.StageStarted("sft", run)
    assert [event.step for event in heard if isinstance(event, events.StageProgress)] == [1, 2]
    assert run_stage(SPEC, run, command=("false",)).cached  # the lock is free


def test_a_failure_of_a_process_that_was_started_ahead_is_the_stages(tmp_path):
    run, command = tmp_path / "run", script(tmp_path, "print('line before'); sys.exit(1)")
    with started_ahead(SPEC, run, command=command):
        with pytest.raises(StageFailed, match=r"(?s)exit code 1.*line before"):
            run_stage(SPEC, run, command=("false",))
        again = run_stage(SPEC, run, command=script(tmp_path, "finish()"))  # as the task does
    assert not again.cached


@pytest.mark.parametrize("other", [False, True], ids=["by the block", "by another stage"])
def test_a_process_that_was_started_ahead_and_is_not_asked_for_is_ended(tmp_path, other):
    run = tmp_path / "run"
    with started_ahead(SPEC, run, command=script(tmp_path, SLEEPERS)):
        wait_until((run / "pids").exists)
        wait_until(lambda: len((run / "pids").read_text().split()) == 2)
        pids = [int(pid) for pid in (run / "pids").read_text().split()]
        if other:  # of a spec that has changed meanwhile
            run_stage(SPEC, tmp_path / "other", command=script(tmp_path, "finish()"))
            wait_until(lambda: not any(map(alive, pids)))
    wait_until(lambda: not any(map(alive, pids)))
    assert not run_stage(SPEC, run, command=script(tmp_path, "finish()")).cached


def test_nothing_is_started_ahead_where_a_stage_works_or_has_finished(tmp_path):
    run = tmp_path / "run"
    with locked(run), started_ahead(SPEC, run, command=("false",)):
        assert not is_ahead(run)
    run_stage(SPEC, run, command=script(tmp_path, "finish()"))
    with started_ahead(SPEC, run, command=("false",)):
        assert not is_ahead(run) and run_stage(SPEC, run).cached
