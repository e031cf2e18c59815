"""`rlhf doctor` on a machine with something wrong."""

import socket
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from other_python import other_python

from flows.platform import doctor, doctor_packages
from flows.platform.pages import port_is_free
from flows.platform.prefect_address import PrefectAddress
from tasks.execution.stage_python import VARIABLE
from tasks.records.shipped import CONTROL


@pytest.fixture
def listener():
    """A socket that listens on a port of its own."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        yield server


@pytest.fixture
def closed_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


@pytest.fixture
def healthy_server():
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path.endswith("/health") else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def address(url: str) -> PrefectAddress:
    """The server as PREFECT_API_URL names it."""
    return PrefectAddress(url, "PREFECT_API_URL", "unset PREFECT_API_URL")


def test_a_taken_port_is_named_with_the_option_that_avoids_it(listener):
    number = listener.getsockname()[1]
    check = doctor.port("MLflow port", number, "--port")
    assert check.level == "warn" and str(number) in check.found and "rlhf ui --port" in check.fix


def test_a_free_port_is_ok(closed_port):
    assert (
        port_is_free(closed_port)
        and doctor.port("MLflow port", closed_port, "--port").level == "ok"
    )


def test_an_unreachable_mlflow_is_a_warning_that_names_sync(closed_port):
    check = doctor.tracking(f"http://127.0.0.1:{closed_port}")
    assert check.level == "warn" and "does not answer" in check.found and "rlhf sync" in check.fix


def test_an_unreachable_prefect_server_is_a_failure(closed_port):
    check = doctor.prefect_api(address(f"http://127.0.0.1:{closed_port}/api"))
    assert check.level == "fail" and "unset PREFECT_API_URL" in check.fix


def test_servers_that_answer_are_ok(healthy_server):
    assert doctor.tracking(healthy_server).level == "ok"
    assert doctor.prefect_api(address(f"{healthy_server}/api")).level == "ok"


@pytest.mark.parametrize("uri", ["./mlruns", "file:///tmp/mlruns"])
def test_a_file_store_is_refused_as_mlflow_refuses_it(uri):
    check = doctor.tracking(uri)
    assert check.level == "fail" and "sqlite:///" in check.fix


def test_a_password_in_an_address_is_not_printed(closed_port):
    check = doctor.tracking(f"http://ada:secret@127.0.0.1:{closed_port}")
    assert "secret" not in check.found + check.fix and "ada:***@" in check.found


def test_unset_addresses_are_ok():
    assert doctor.tracking(None).level == doctor.prefect_api(None).level == "ok"


def test_a_missing_compiler_says_how_to_install_one(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    check = doctor.compiler()
    assert (
        check.level == "fail"
        and "'g++' is not on PATH" in check.found
        and "apt-get install g++" in check.fix
    )


def test_ninja_beside_the_interpreter_counts_without_a_path(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert doctor.ninja().level == "ok"


def test_packages_are_compared_with_the_lock_file(tmp_path):
    lock = tmp_path / "cpu.txt"
    torch, prefect = doctor.version_of("torch").partition("+")[0], doctor.version_of("prefect")
    lock.write_text(
        f"# a comment==1\ntorch=={torch}\nprefect=={prefect}.1\nmlflow==0.1\nno-such-package==1.0\n"
    )
    checks = {check.name: check for check in doctor.packages(lock)}
    assert checks["torch"].level == "ok"  # a build label is not part of the pin
    assert checks["prefect"].level == "warn"
    assert checks["prefect"].fix.startswith(f"{sys.executable} -m pip install --no-deps prefect==")
    assert (
        checks["other packages"].level == "fail"
        and "no-such-package missing" in checks["other packages"].found
    )


def test_the_locked_environment_of_these_tests_is_met():
    assert {
        check.name: check.level
        for check in doctor.packages(doctor_packages.lock_file())
        if check.level == "fail"
    } == {}


def test_one_environment_for_both_sides_has_one_lock(monkeypatch):
    monkeypatch.delenv(VARIABLE, raising=False)
    assert doctor_packages.lock_files() == [doctor_packages.lock_file()]
    assert doctor.stages().level == "ok"


def test_with_two_environments_each_has_its_lock(monkeypatch, tmp_path):
    monkeypatch.setenv(VARIABLE, str(other_python(tmp_path / "stage")))
    control, stage = doctor_packages.lock_files()
    assert (control.name, stage) == (CONTROL, doctor_packages.lock_file())
    assert doctor.stages().found == f"run by {tmp_path}/stage/bin/python"


def test_an_interpreter_of_the_stages_that_is_not_there_fails_with_the_variables_name(monkeypatch):
    monkeypatch.setenv(VARIABLE, "/no/such/python")
    check = doctor.stages()
    assert check.level == "fail" and VARIABLE in check.found and VARIABLE in check.fix


def test_a_missing_lock_file_is_a_warning(tmp_path):
    assert [check.level for check in doctor.packages(tmp_path / "none.txt")] == ["warn"]


@pytest.mark.parametrize(
    ("version", "cuda", "level"),
    [
        ("2.13.0+cpu", False, "ok"),
        ("2.13.0", False, "warn"),
        ("2.13.0+cpu", True, "warn"),
        ("2.13.0", True, "ok"),
        (None, False, "fail"),
    ],
)
def test_torchs_build_must_be_the_machines(version, cuda, level):
    assert doctor.torch_build(version, cuda=cuda).level == level


def test_the_torchvision_trap_is_named_with_the_way_out():
    check = doctor.vllm_imports(
        lambda code: "RuntimeError: operator torchvision::nms does not exist"
    )
    assert check.level == "fail" and "pip uninstall torchvision" in check.fix


def test_an_import_that_fails_gives_its_last_line():
    assert (
        doctor_packages.last_error("import no_such_module")
        == "ModuleNotFoundError: No module named 'no_such_module'"
    )
    assert doctor_packages.last_error("pass") is None


def test_little_disk_and_little_memory_are_told(tmp_path, monkeypatch):
    monkeypatch.setitem(doctor.DISK_GIB, "fail", 1e9)
    assert doctor.disk(tmp_path).level == "fail" and "RLHF_HOME" in doctor.disk(tmp_path).fix
    monkeypatch.setattr(doctor, "MEMORY_GIB", 1e9)
    assert doctor.memory().level == "warn"
