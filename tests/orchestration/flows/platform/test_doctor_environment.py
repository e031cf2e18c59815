"""The doctor's checks of proxies, home, workspace, current folder and servers left behind."""

import os
import subprocess
import sys
import time

import psutil
import pytest
from unprivileged import without_privileges

from flows import environment
from flows.platform import doctor_environment as doctor
from tasks.execution.guarded_process import GuardedProcess
from tasks.records.workspace import Workspace


def test_an_unusable_proxy_is_a_warning_that_names_it(monkeypatch):
    monkeypatch.setattr(environment, "unusable_proxies", {"ALL_PROXY": "socks:// is not ..."})
    check = doctor.proxies()
    assert check.level == "warn" and "ALL_PROXY: socks://" in check.found


def test_a_proxy_is_told_with_the_addresses_that_need_none(monkeypatch):
    monkeypatch.setattr(environment, "unusable_proxies", {})
    monkeypatch.setenv("HTTP_PROXY", "http://proxy:3128")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    check = doctor.proxies()
    assert check.level == "ok" and "HTTP_PROXY" in check.found and "127.0.0.1" in check.found


def test_a_replaced_home_is_a_warning(monkeypatch):
    monkeypatch.setattr(environment, "replaced_homes", ["/ cannot be written"])
    check = doctor.home()
    assert check.level == "warn" and "/ cannot be written" in check.found and "HOME" in check.fix


def test_a_cache_of_the_hub_that_cannot_be_written_is_a_warning(monkeypatch):
    monkeypatch.setattr(environment, "replaced_homes", [])
    for name in environment.HUB_CACHES:
        monkeypatch.delenv(name, raising=False)
    assert doctor.home().level == "ok"
    monkeypatch.setenv("HF_HOME", "/dev/null/hub")
    check = doctor.home()
    assert check.level == "warn" and "HF_HOME=/dev/null/hub cannot be written" in check.found


@pytest.mark.parametrize("make", ["file", "package"])
def test_a_library_name_in_the_current_folder_is_a_warning(tmp_path, make):
    assert doctor.current_folder(tmp_path).level == "ok"
    (tmp_path / "my_rules.py").write_text("")
    assert doctor.current_folder(tmp_path).level == "ok"
    if make == "file":
        (tmp_path / "datasets.py").write_text("x = 1")
    else:
        (tmp_path / "datasets").mkdir()
        (tmp_path / "datasets" / "__init__.py").write_text("")
    check = doctor.current_folder(tmp_path)
    assert check.level == "warn" and "datasets" in check.found and "rename" in check.fix


def test_a_workspace_that_cannot_be_written_is_a_failure(tmp_path):
    tmp_path.chmod(0o555)
    code = (
        "import sys; from pathlib import Path\n"
        "from flows.platform.doctor_environment import workspace\n"
        "from tasks.records.workspace import Workspace\n"
        "check = workspace(Workspace(Path(sys.argv[1]))); print(check.level, check.found)"
    )
    done = subprocess.run(
        without_privileges(sys.executable, "-c", code, str(tmp_path)),
        capture_output=True,
        text=True,
    )
    tmp_path.chmod(0o755)
    assert done.stdout.startswith("fail") and str(tmp_path) in done.stdout, done.stderr
    assert doctor.workspace(Workspace(tmp_path)).level == "ok"


def test_a_server_whose_run_was_killed_is_told_with_its_number():
    """A program with the command line of Prefect's server, whose parent has ended."""
    nowhere = "stdout=s.DEVNULL, stderr=s.DEVNULL"
    parent = (
        "import subprocess as s, sys; print(s.Popen([sys.executable, '-c',"
        f" 'import time; time.sleep(60)', {doctor.SERVER!r}], {nowhere}).pid)"
    )
    done = subprocess.run(
        [sys.executable, "-c", parent], capture_output=True, text=True, start_new_session=True
    )
    number = int(done.stdout)
    try:
        check = doctor.left_servers()
        assert check.level == "warn" and str(number) in check.found
        assert str(number) in check.fix
    finally:
        os.kill(number, 9)


def test_the_server_of_a_run_that_goes_on_is_not_told():
    """Bug: the guard of each server has a session of its own, and was told as left behind."""
    server = GuardedProcess([sys.executable, "-c", "import time; time.sleep(60)", doctor.SERVER])
    try:
        while not (children := psutil.Process(server.pid).children()):
            time.sleep(0.01)
        found = doctor.left_servers().found
        assert not {str(process.pid) for process in (server, *children)} & set(found.split())
    finally:
        server.end(0.1)
