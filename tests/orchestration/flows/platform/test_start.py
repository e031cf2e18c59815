"""`rlhf up` and `rlhf down` with real servers and processes."""

import asyncio
import importlib
import json
import os
import shlex
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import timedelta
from pathlib import Path

import psutil
import pytest
from command_line import rlhf_process
from postgres import postgres

from flows.platform import database, services, start, state
from flows.platform.pages import answers, free_port
from flows.platform.services import MARKER
from flows.platform.start import PlatformOptions
from rlhf_core.errors import BadInput, RLHFError
from tasks.records.process_identity import ProcessIdentity
from tasks.records.workspace import Workspace


def marked(home) -> list[int]:
    """Live processes of this workspace's platform."""
    found = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(MARKER) == str(home)
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                found.append(process.pid)
        except psutil.Error:
            continue
    return found


@pytest.fixture
def sleeper(tmp_path):
    """A process group with a leader and a child, marked as this workspace's platform."""
    command = ["bash", "-c", "sleep 300 & sleep 300; true"]
    process = subprocess.Popen(
        command, env=os.environ | {MARKER: str(tmp_path)}, start_new_session=True
    )
    while len(marked(tmp_path)) < 3:
        time.sleep(0.05)
    yield process
    for pid in marked(tmp_path):
        os.kill(pid, signal.SIGKILL)
    process.wait()


def written(home, owner: ProcessIdentity) -> Workspace:
    """A workspace whose platform has one service, of this owner."""
    service = state.Service(
        name="worker", owner=owner, health="http://127.0.0.1:9/", log=home / "worker.log"
    )
    workspace = Workspace(home)
    state.write(
        workspace,
        state.Platform(prefect_port=1, mlflow_port=2, pool="p", services={"worker": service}),
    )
    return workspace


def test_down_ends_the_whole_group_of_a_service(tmp_path, sleeper):
    workspace = written(tmp_path, ProcessIdentity.of(sleeper.pid))
    assert start.down(workspace) == ["worker"]
    assert not marked(tmp_path) and not state.read(workspace).services


def test_down_leaves_a_later_process_of_the_same_number_alone(tmp_path, sleeper):
    other = ProcessIdentity.of(sleeper.pid).model_copy(update={"started": "1"})
    home = tmp_path / "other"  # its mark is not on the sleeper
    home.mkdir()
    assert start.down(written(home, other)) == []
    assert sleeper.poll() is None and len(marked(tmp_path)) == 3


def test_down_ends_what_a_killed_leader_left_of_its_group(tmp_path, sleeper):
    workspace = written(tmp_path, ProcessIdentity.of(sleeper.pid))
    sleeper.kill()
    sleeper.wait()
    assert marked(tmp_path)
    assert start.down(workspace) == []
    assert not marked(tmp_path)


def test_a_running_platform_is_not_moved_to_another_port(tmp_path, sleeper):
    workspace = written(tmp_path, ProcessIdentity.of(sleeper.pid))
    with pytest.raises(
        BadInput, match="prefect_port 1, and 4711 is asked for; run rlhf down first"
    ):
        start.up(workspace, PlatformOptions(prefect_port=4711), print)


def test_data_on_postgresql_are_not_silently_replaced_by_sqlite(tmp_path):
    workspace, url = Workspace(tmp_path), "postgresql://u:***@127.0.0.1:1"
    state.write(
        workspace,
        state.Platform(prefect_port=free_port(), mlflow_port=free_port(), pool="p", database=url),
    )
    with pytest.raises(BadInput, match="data are in postgresql://u:"):
        start.up(workspace, PlatformOptions(), print)


@pytest.mark.parametrize("url", ["no url", "sqlite:///x.db", "mysql://u:hidden@h/d"])
def test_what_is_no_postgresql_url_is_refused_without_its_password(url):
    with pytest.raises(BadInput, match="expected postgresql://") as caught:
        database.prepare(url)
    assert "hidden" not in str(caught.value)


def test_a_damaged_state_file_is_refused(tmp_path):
    workspace = written(tmp_path, ProcessIdentity.current())
    (state.folder(workspace) / "state.json").write_text("{}")
    with pytest.raises(RLHFError, match="is damaged"):
        state.read(workspace)


def test_a_taken_port_is_bad_input(tmp_path):
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        done = rlhf_process(tmp_path, "up", "--prefect-port", str(listener.getsockname()[1]))
    assert done.returncode == 2 and "is taken" in done.stderr and not marked(tmp_path)


AUTOMATION = """
import asyncio, sys, httpx
from flows.platform import prefect_server
from prefect.server.api.server import create_app
from prefect.server.events import triggers

async def main():
    app = create_app()
    async with app.router.lifespan_context(app):
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server/api") as client:
            async def looks_at_triggers():
                async with triggers._automations_lock():
                    await asyncio.sleep(2)
            busy = asyncio.create_task(looks_at_triggers())
            await asyncio.sleep(0)
            trigger = {"type": "event", "expect": ["x"], "posture": "Reactive"}
            trigger |= {"threshold": 1, "within": 0}
            automation = {"name": "a", "trigger": trigger, "actions": [{"type": "do-nothing"}]}
            made = await client.post("/automations/", json=automation)
            await busy
            await asyncio.sleep(1)
            print(made.status_code, [item.name for item in triggers.automations_by_id.values()])

if "mended" in sys.argv:
    prefect_server.prevent_deadlock()
asyncio.run(main())
"""


@pytest.mark.slow
def test_prefects_server_does_not_stop_when_an_automation_is_made_while_it_looks_at_triggers(
    tmp_path,
):
    off = {
        f"PREFECT_SERVER_SERVICES_{name}_ENABLED": "false"
        for name in ("SCHEDULER", "LATE_RUNS", "TRIGGERS", "FOREMAN")
    }
    environment = (
        os.environ
        | off
        | {"PREFECT_HOME": str(tmp_path), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    )

    def run(*words: str, seconds: int) -> str:
        command = [sys.executable, "-c", AUTOMATION, *words]
        return subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=seconds
        ).stdout

    assert run("mended", seconds=200).strip() == "201 ['a']"
    # else Prefect has fixed it: flows/platform/prefect_server.py can go
    with pytest.raises(subprocess.TimeoutExpired):
        run(seconds=40)


def test_prefects_server_knows_after_a_kill_who_holds_a_device(tmp_path):
    program = services.prefect(
        Workspace(tmp_path), state.Platform(prefect_port=1, mlflow_port=2, pool="p"), None
    )
    module = importlib.import_module(
        program.environment["PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE"]
    )
    kept = module.ConcurrencyLeaseStorage(tmp_path)
    lease = asyncio.run(kept.create_lease([uuid.uuid4()], timedelta(seconds=300)))
    assert (
        asyncio.run(module.ConcurrencyLeaseStorage(tmp_path).read_lease(lease.id)).resource_ids
        == lease.resource_ids
    )


@pytest.mark.parametrize(("given", "expected"), [(None, "{here}:{home}"), ("/data", "/data")])
def test_recipes_of_the_worker_read_the_folder_of_the_platform_unless_more_is_allowed(
    tmp_path, monkeypatch, given, expected
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RLHF_ALLOWED_ROOTS", raising=False)
    if given:
        monkeypatch.setenv("RLHF_ALLOWED_ROOTS", given)
    workspace = Workspace(tmp_path / "home")
    program = services.worker(
        workspace, state.Platform(prefect_port=1, mlflow_port=2, pool="p"), port=3
    )
    assert program.environment["RLHF_ALLOWED_ROOTS"] == expected.format(
        here=tmp_path, home=workspace.home
    )


def test_the_worker_and_its_runs_do_not_get_the_databases_password(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_DATABASE_URL", "postgresql://u:hidden@127.0.0.1:1")
    workspace = Workspace(tmp_path)
    platform = state.Platform(prefect_port=1, mlflow_port=2, pool="p")
    found = services.programs(workspace, platform, {}, "postgresql://u:hidden@127.0.0.1:1")
    having = [one.name for one in found if "hidden" in str(one.environment)]
    assert having == ["keeper"]
    assert [one for one in found if "hidden" in " ".join(one.command)] == []


@pytest.mark.slow
def test_up_twice_kill_the_worker_up_down(tmp_path):
    ports = ("--prefect-port", str(free_port()), "--port", str(free_port()))
    ports += ("--page-port", str(free_port()), "--no-restart")
    try:
        first = rlhf_process(tmp_path, "up", *ports, "--json")
        assert first.returncode == 0, first.stderr
        up = json.loads(first.stdout)
        assert up["started"] == ["prefect", "mlflow", "worker", "page"]
        assert answers(up["prefect_url"] + "/api/health") and answers(up["mlflow_url"] + "/health")
        assert "the platform runs already" in rlhf_process(tmp_path, "up", "--no-restart").stdout
        os.kill(up["services"]["worker"]["owner"]["pid"], signal.SIGKILL)
        assert "has died: rlhf up starts it" in rlhf_process(tmp_path, "status").stdout
        again = json.loads(rlhf_process(tmp_path, "up", "--no-restart", "--json").stdout)
        assert (
            again["started"] == ["worker"]
            and again["services"]["prefect"] == up["services"]["prefect"]
        )
    finally:
        down = rlhf_process(tmp_path, "down")
    assert down.stdout == "stopped: page, worker, mlflow, prefect\n" and not marked(tmp_path)


def leaders(home) -> list[str]:
    """The modules of this platform's services that run, once for each process group."""
    processes = [psutil.Process(pid) for pid in marked(home)]
    found = [" ".join(p.cmdline()[1:5]) for p in processes if os.getpgid(p.pid) == p.pid]
    return sorted(found)


@pytest.mark.slow
def test_what_dies_comes_back_by_itself_and_a_killed_keeper_leaves_no_double_server(tmp_path):
    ports = ("--prefect-port", str(free_port()), "--port", str(free_port()))
    ports += ("--page-port", str(free_port()))
    workspace = Workspace(tmp_path)

    def pids() -> dict[str, int]:
        return {name: one.owner.pid for name, one in state.read(workspace).services.items()}

    def come_back(*names: str) -> None:
        before, end = pids(), time.monotonic() + 120
        for name in names:
            os.killpg(before[name], signal.SIGKILL)
        while "has died" in (text := rlhf_process(tmp_path, "status").stdout) or (
            text.count("well, started again") < len(names)
        ):
            assert time.monotonic() < end, text
        changed = {name for name, pid in pids().items() if pid != before[name]}
        assert changed == set(names)

    try:
        up = rlhf_process(tmp_path, "up", *ports, "--limit", "2")
        assert up.stdout.startswith("started: prefect, mlflow, worker, page, keeper\n"), up.stderr
        kinds = leaders(tmp_path)
        assert len(kinds) == 5
        come_back("worker", "mlflow", "prefect", "page")
        assert "--limit 2" in " ".join(psutil.Process(pids()["worker"]).cmdline())
        before = pids()
        os.kill(before["keeper"], signal.SIGKILL)
        assert "keeper   has died: rlhf up starts it" in rlhf_process(tmp_path, "status").stdout
        assert rlhf_process(tmp_path, "up").stdout.startswith("started: keeper\n")
        assert "the platform runs already" in rlhf_process(tmp_path, "up").stdout
        assert {name for name, pid in pids().items() if pid != before[name]} == {"keeper"}
        assert leaders(tmp_path) == kinds
        come_back("mlflow")
    finally:
        down = rlhf_process(tmp_path, "down")
    assert down.stdout == "stopped: keeper, page, worker, mlflow, prefect\n" and not marked(
        tmp_path
    )


@pytest.mark.slow
def test_a_server_on_postgresql_comes_back_on_its_database_and_the_password_is_the_keepers_alone(
    tmp_path,
):
    home = tmp_path / "home"
    home.mkdir()
    names = ("--prefect-port", "--port", "--page-port")
    ports = [word for name in names for word in (name, str(free_port()))]
    with tempfile.TemporaryDirectory(prefix="pg-") as place, postgres(Path(place)) as database:
        try:
            url = database.url.replace("postgres@", "postgres:hidden@")
            up = rlhf_process(home, "up", *ports, "--database", url)
            assert up.returncode == 0, up.stderr
            before = state.read(Workspace(home)).services
            having = {
                name
                for name, one in before.items()
                if services.DATABASE in psutil.Process(one.owner.pid).environ()
            }
            assert having == {"keeper"}
            os.killpg(before["mlflow"].owner.pid, signal.SIGKILL)
            end = time.monotonic() + 120
            while "started again once" not in (text := rlhf_process(home, "status").stdout):
                assert time.monotonic() < end, text
            back = psutil.Process(state.read(Workspace(home)).services["mlflow"].owner.pid)
            store = back.environ()["MLFLOW_BACKEND_STORE_URI"]
            assert store.startswith("postgresql+psycopg2://") and store.endswith("/rlhf_mlflow")
            files = [file for file in (home / "platform").iterdir() if file.is_file()]
            assert "hidden" not in "".join(file.read_text() for file in files)
        finally:
            rlhf_process(home, "down")
    assert not marked(home)


@pytest.mark.slow
def test_the_unit_starts_the_platform_in_an_environment_that_has_nothing_else(tmp_path):
    """As after a reboot: the servers of the last time are gone, and their ids mean nothing."""
    ports = ("--prefect-port", str(free_port()), "--port", str(free_port()))
    ports += ("--page-port", str(free_port()))
    workspace = Workspace(tmp_path)
    text = rlhf_process(tmp_path, "up", *ports, "--systemd").stdout
    lines = [line.partition("=") for line in text.splitlines()]
    words = [shlex.split(value)[0] for name, _, value in lines if name == "Environment"]
    environment = dict(word.split("=", 1) for word in words)
    values = {name: value for name, _, value in lines}
    stop = shlex.split(values["ExecStop"].replace("$$", "$"))
    dead = ProcessIdentity.current().model_copy(update={"space": "an earlier boot"})
    written(tmp_path, dead)
    try:
        done = subprocess.run(
            shlex.split(values["ExecStart"]),
            env=environment,
            cwd=values["WorkingDirectory"],
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        keeper = state.read(workspace).services["keeper"]
        assert Path(values["PIDFile"]).read_text() == f"{keeper.owner.pid}\n"
        subprocess.run(stop, env=environment, check=True)  # the keeper was killed: nothing stops
        assert keeper.runs
    finally:
        subprocess.run(stop, env=environment | {"MAINPID": "1"}, check=True, cwd=tmp_path)
    assert not marked(tmp_path)
