"""The keeper starts again what dies, and gives up; with real processes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from flows.cli.tables.platform import service_lines
from flows.platform import restarts, start, state
from flows.platform.keeper import Keeper
from flows.platform.launch import launch
from flows.platform.services import KEEPER, MARKER, Program
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace

LOOP = """
import sys
from flows.platform import keeper, restarts, services
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace
restarts.FIRST_WAIT_SECONDS = 0.01
keeper.STEP_SECONDS = 0.01
words = ("sleep", "0.05")
def programs(workspace, *_):
    return [services.Program("worker", words, services.environment(workspace), "")]
it = keeper.Keeper(Workspace.here(), ProcessIdentity.current(), None, programs)
print("ready", flush=True)
while it.step():
    pass
"""


def lasting(command: str, workspace: Workspace) -> Program:
    environment = os.environ | {MARKER: str(workspace.home)}
    return Program("worker", ("bash", "-c", command), environment, "")


class Bench:
    """A workspace whose platform has this process as its keeper, and a service."""

    def __init__(self, home: Path, command: str):
        self.workspace = Workspace(home)
        self.command = command
        me = state.Service(
            name=KEEPER, owner=ProcessIdentity.current(), health="", log=home / "keeper.log"
        )
        platform = state.Platform(prefect_port=1, mlflow_port=2, pool="p", services={KEEPER: me})
        launch(self.workspace, platform, self.program)
        self.keeper = Keeper(self.workspace, me.owner, None, lambda *_: [self.program])

    @property
    def program(self) -> Program:
        return lasting(self.command, self.workspace)

    @property
    def platform(self) -> state.Platform:
        found = state.read(self.workspace)
        assert found
        return found

    @property
    def pid(self) -> int:
        return self.platform.services["worker"].owner.pid

    def until(self, condition, seconds: float = 10) -> None:
        """Let the keeper look again and again."""
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, self.platform
            assert self.keeper.step()
            time.sleep(0.005)

    @property
    def line(self) -> str:
        """Return what `rlhf status` says of the service."""
        return next(line for line in service_lines(self.platform) if line.startswith("worker"))


@pytest.fixture
def bench(tmp_path, monkeypatch):
    made = []

    def make(command: str, wait: float = 0.01) -> Bench:
        monkeypatch.setattr(restarts, "FIRST_WAIT_SECONDS", wait)
        made.append(Bench(tmp_path, command))
        return made[-1]

    yield make
    for process in start.members(Workspace(tmp_path)):
        process.kill()
    psutil.wait_procs(psutil.Process().children(), timeout=1)


def test_a_service_that_was_killed_is_started_again_and_status_says_so(bench):
    it = bench("sleep 60")
    first = it.pid
    assert it.keeper.step() and it.pid == first
    os.kill(first, signal.SIGKILL)
    it.until(lambda: it.pid != first)
    assert psutil.pid_exists(it.pid) and "started again once, last at" in it.line
    second = it.pid
    os.kill(second, signal.SIGKILL)
    it.until(lambda: it.pid not in (first, second))
    assert "started again 2 times" in it.line and "(signal 9)" in it.line


def test_it_waits_before_it_starts_a_service_again(bench):
    it = bench("exit 1", wait=30)
    it.until(lambda: "worker" in it.platform.troubles)
    pid = it.pid
    assert it.keeper.step() and it.pid == pid and "is started again at " in it.line


def test_a_service_that_dies_again_and_again_is_given_up_with_the_reason_and_its_log(bench):
    it = bench("echo port is taken; exit 7", wait=0.0)
    it.until(lambda: it.platform.troubles["worker"].given_up if it.platform.troubles else False)
    assert it.platform.troubles["worker"].deaths == restarts.MOST_RESTARTS + 1
    pid = it.pid
    assert it.keeper.step() and it.pid == pid
    at = it.platform.troubles["worker"].last.astimezone().strftime("%Y-%m-%d %H:%M:%S %Z")
    assert f"has died 9 times, given up at {at} after 8 restarts within 30 minutes" in it.line
    assert "30 minutes (exit code 7): port is taken; rlhf up starts it" in it.line
    assert it.line.endswith("worker.log")


def test_a_service_that_cannot_be_started_is_given_up_too(bench, monkeypatch):
    it = bench("exit 1", wait=0.0)
    missing = Program("worker", ("/no/such/program",), dict(os.environ), "")
    it.keeper.programs = lambda *_: [missing]
    it.until(lambda: it.platform.troubles["worker"].given_up if it.platform.troubles else False)
    assert "No such file or directory: '/no/such/program'" in it.line


def test_a_platform_that_has_another_keeper_or_none_is_left_alone(bench):
    it = bench("exit 1")
    other = ProcessIdentity.current().model_copy(update={"started": "1"})
    pid, before = it.pid, it.platform
    keeper = before.services[KEEPER].model_copy(update={"owner": other})
    for services in ({**before.services, KEEPER: keeper}, {"worker": before.services["worker"]}):
        state.write(it.workspace, before.model_copy(update={"services": services}))
        assert not it.keeper.step() and it.pid == pid and not it.platform.troubles


def test_without_its_keeper_a_dead_service_waits_for_rlhf_up(bench):
    it = bench("exit 1", wait=30)
    it.until(lambda: "worker" in it.platform.troubles)
    services = {"worker": it.platform.services["worker"]}
    state.write(it.workspace, it.platform.model_copy(update={"services": services}))
    assert "has died: rlhf up starts it" in it.line


def test_a_log_that_has_grown_is_cut(bench):
    it = bench("sleep 60")
    log = it.platform.services["worker"].log
    log.write_bytes(b"x" * (10 * 2**20 + 1))
    assert it.keeper.step()
    assert log.stat().st_size == 0 and log.with_name("worker.log.1").stat().st_size > 10 * 2**20


def test_down_never_races_with_a_restart(tmp_path):
    """The service dies every 50 ms, and its keeper starts it 10 ms later."""
    workspace = Workspace(tmp_path)
    platform = state.Platform(prefect_port=1, mlflow_port=2, pool="p")
    environment = os.environ | {"RLHF_HOME": str(tmp_path), MARKER: str(tmp_path)}
    with state.locked(workspace):
        keeper = subprocess.Popen(
            [sys.executable, "-c", LOOP], env=environment, stdout=subprocess.PIPE, text=True
        )
        owner = ProcessIdentity.of(keeper.pid)
        me = state.Service(name=KEEPER, owner=owner, health="", log=tmp_path / "keeper.log")
        platform = platform.model_copy(update={"services": {KEEPER: me}})
        first = launch(workspace, platform, lasting("exit 0", workspace))[1]
    assert keeper.stdout.readline() == "ready\n"
    while state.read(workspace).services["worker"].owner.pid == first.pid:
        time.sleep(0.01)
    keeper.stdout.close()
    assert KEEPER in start.down(workspace)
    assert keeper.wait(5) is not None and first.wait() == 0
    assert start.members(workspace) == [] and not state.read(workspace).services


def test_a_service_that_nobody_has_recorded_is_ended_before_another_one_is_started(
    tmp_path, monkeypatch
):
    """Its keeper was killed between the start and the record."""
    home = tmp_path / "home"
    home.mkdir()
    (tmp_path / "mlflow").mkdir()
    (tmp_path / "mlflow" / "__main__.py").write_text("import time; time.sleep(60)")
    environment = {"PYTHONPATH": str(tmp_path), MARKER: str(home), "PATH": os.environ["PATH"]}
    stray, run = (
        subprocess.Popen(
            [sys.executable, *words], env=environment, start_new_session=True, cwd=tmp_path
        )
        for words in (["-m", "mlflow", "server"], ["-c", "import time; time.sleep(60)"])
    )
    try:
        while len(start.members(Workspace(home))) < 2:
            time.sleep(0.01)
        start.end_strays(Workspace(home), None)
        assert not psutil.pid_exists(stray.pid) and run.poll() is None
    finally:
        for process in (stray, run):
            process.kill()
            process.wait()
