"""The release of the server that deployments are made on."""

import os
import subprocess
import sys
import time

import prefect
import pytest
from command_line import environment_of
from control_environment import python_of_commands

from flows.platform.pages import answers, free_port
from flows.schedule.server import require_release
from rlhf_core.errors import BadInput
from tasks.execution.guarded_process import GuardedProcess

URL = "http://prefect.example.org/api"


@pytest.mark.parametrize("release", ["3.7.6", "3.7.7rc1", "2.20.9"])
def test_a_server_of_an_earlier_release_is_refused_with_both(release, monkeypatch):
    monkeypatch.setattr(prefect, "__version__", "3.7.7")
    with pytest.raises(BadInput, match=rf"at {URL} is {release}, older than .* here, 3\.7\.7"):
        require_release(URL, release)


@pytest.mark.parametrize("release", ["3.7.7", "3.7.8", "3.10.0", ""])
def test_the_same_and_a_later_release_are_taken(release, monkeypatch):
    monkeypatch.setattr(prefect, "__version__", "3.7.7")
    require_release(URL, release)


@pytest.mark.slow
def test_the_commands_refuse_the_server_of_the_environment_with_vllm(home, recipe_file):
    """Prefect 3.9.1 met 3.7.7 with a request that it refused as malformed."""
    port = free_port()
    address = ("--host", "127.0.0.1", "--port", str(port))
    given = os.environ | {"PREFECT_HOME": str(home / "server"), "PREFECT_UI_ENABLED": "0"}
    server = GuardedProcess(
        [sys.executable, "-m", "prefect", "server", "start", *address], env=given
    )
    try:
        url = f"http://127.0.0.1:{port}/api"
        while not answers(f"{url}/health"):
            assert server.poll() is None
            time.sleep(0.2)
        rlhf = python_of_commands().with_name("rlhf")
        words = [rlhf, "deploy", str(recipe_file), "--name", "weekly"]
        environment = environment_of(home) | {"PREFECT_API_URL": url}
        done = subprocess.run(words, env=environment, capture_output=True, text=True)
        assert done.returncode == 2 and f"is {prefect.__version__}, older than" in done.stderr
    finally:
        server.end()
