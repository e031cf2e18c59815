"""Runs that end in every way, and Prefect's own server with them."""

import os
import signal
import sys
import time

import psutil
import pytest
from command_line import environment_of

from flows.platform.doctor_environment import SERVER

IGNORED = ("sh", "-c", "trap '' INT; exec \"$@\"", "sh")  # as a script starts `COMMAND &`
CLOSED = ("sh", "-c", 'exec "$@" >&-', "sh")


@pytest.fixture
def start(home, recipe_file, command):
    """Start `rlhf run` up to a stage as a process group of its own; its output is a file."""
    code = (
        "from tasks.execution import stage_process; "
        f"stage_process.COMMAND = {command!r}; from flows.cli.app import run; run()"
    )
    started, output = [], home / "output"

    def start(until: str, *before: str) -> psutil.Popen:
        words = [sys.executable, "-c", code, "run", str(recipe_file), "--until", until]
        with output.open("w") as file:
            process = psutil.Popen(
                [*before, *words],
                stdout=file,
                stderr=file,
                env=environment_of(home),
                start_new_session=True,
            )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def wait_for_stage(home, process) -> list[psutil.Process]:
    """Return the processes of a run once its stage has begun, Prefect's server among them."""
    deadline = time.monotonic() + 120
    while not any((home / "runs").glob("sft-*/metrics.jsonl")):
        assert process.poll() is None and time.monotonic() < deadline, (home / "output").read_text()
        time.sleep(0.05)
    found = process.children(recursive=True)
    servers = [words for child in found if SERVER in (words := child.cmdline())]
    assert len([words for words in servers if words[1] == "-m"]) == 1  # besides its guard
    return found


@pytest.mark.parametrize(
    "before",
    [
        pytest.param((), id="in front"),
        pytest.param(IGNORED, id="by a script's background", marks=pytest.mark.slow),
    ],
)
def test_ctrl_c_in_a_terminal_ends_run_and_server_within_seconds(home, start, plan, before):
    """A terminal sends the interrupt to the whole process group."""
    plan(sft={"seconds": 120})
    process = start("sft", *before)
    children = wait_for_stage(home, process)
    os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 130
    said = (home / "output").read_text()
    assert "the same command goes on" in said and "Traceback" not in said
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.slow
def test_a_killed_run_leaves_no_process(home, start, plan):
    plan(sft={"seconds": 120})
    process = start("sft")
    children = wait_for_stage(home, process)
    process.kill()
    process.wait()
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_run_that_ends_while_its_server_starts_leaves_no_process(home, start, plan, how):
    """The first stage is at work by then."""
    plan(validate={"seconds": 120})
    process, deadline = start("sft"), time.monotonic() + 120
    while not (home / "runs" / "started.log").exists():
        assert process.poll() is None and time.monotonic() < deadline, (home / "output").read_text()
        time.sleep(0.01)
    children = process.children(recursive=True)
    assert any(SERVER in child.cmdline() for child in children)
    assert "validate: started" not in (home / "output").read_text()  # as the flow says it
    os.kill(process.pid, how)
    process.wait(60)
    assert psutil.wait_procs(children, timeout=30)[1] == []


@pytest.mark.slow
def test_a_run_whose_output_is_closed_finishes(home, start):
    process = start("validate", *CLOSED)
    assert process.wait(120) == 0, (home / "output").read_text()
    assert any((home / "runs").glob("validate-*/result.json"))


def test_without_a_privilege_to_write_a_run_is_refused_at_once(home, start):
    """Nothing of Prefect is started for a workspace whose part may not be written."""
    (home / "runs").write_text("")
    (home / "runs").chmod(0o400)
    process = start("validate", *_without_root())
    assert process.wait(60) == 2
    said = (home / "output").read_text()
    assert said.count("\n") == 1 and f"{home / 'runs'} cannot be written" in said


def _without_root() -> list[str]:
    from unprivileged import without_privileges

    return without_privileges("env")
