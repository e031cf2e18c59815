"""Prefect's server with a password: without it nothing is seen or started."""

import os
import subprocess
import sys
import time

import httpx
import pytest
from command_line import RLHF

from flows.platform.pages import free_port

pytestmark = pytest.mark.slow
ACCOUNT = ("admin", "a-password-of-this-test")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Start the server and yield the API's address."""
    home, port = tmp_path_factory.mktemp("prefect"), free_port()
    environment = os.environ | {
        "PREFECT_HOME": str(home),
        "PREFECT_SERVER_API_AUTH_STRING": ":".join(ACCOUNT),
    }
    command = [
        sys.executable,
        "-m",
        "prefect",
        "server",
        "start",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        end = time.monotonic() + 120
        while not _answers(f"http://127.0.0.1:{port}/api"):
            assert process.poll() is None and time.monotonic() < end, (home / "log").read_text()[
                -3000:
            ]
            time.sleep(0.5)
        yield f"http://127.0.0.1:{port}/api"
    finally:
        process.terminate()
        process.wait(60)


def _answers(api: str) -> bool:
    try:
        return (
            httpx.post(f"{api}/flow_runs/filter", json={}, auth=ACCOUNT).status_code
            == httpx.codes.OK
        )
    except httpx.TransportError:
        return False


@pytest.mark.parametrize("account", [None, ("admin", "guessed")])
@pytest.mark.parametrize(
    "path",
    ["flow_runs/filter", "deployments/filter", "flows/", "block_documents/filter", "admin/version"],
)
def test_nothing_is_shown_or_made_without_the_password(server, account, path):
    assert (
        httpx.post(f"{server}/{path}", json={"name": "mine"}, auth=account).status_code
        == httpx.codes.UNAUTHORIZED
    )


def schedules(server: str, home, **more: str) -> subprocess.CompletedProcess:
    environment = os.environ | {"PREFECT_API_URL": server, "RLHF_HOME": str(home)} | more
    return subprocess.run(
        [*RLHF, "schedules", "--json"], capture_output=True, text=True, env=environment
    )


def test_the_command_takes_the_password_from_the_environment_and_names_it_when_it_is_missing(
    server, tmp_path
):
    allowed = schedules(server, tmp_path, PREFECT_API_AUTH_STRING=":".join(ACCOUNT))
    assert (allowed.returncode, allowed.stdout.strip()) == (0, "[]")
    refused = schedules(server, tmp_path)
    assert refused.returncode != 0 and "PREFECT_API_AUTH_STRING" in refused.stderr
    assert ACCOUNT[1] not in allowed.stderr + refused.stderr
