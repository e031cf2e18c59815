"""The quickstart by commands and flows that have an environment of their own: `make test-slow`."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment_of
from control_environment import python_of_commands

from tasks.execution.stage_python import VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture
def call(tmp_path):
    """Run `rlhf` of an environment in one of two workspaces, and return what it prints."""

    def run(python: Path, *words: str, home: str = "home", exit_code: int = 0) -> str:
        environment = environment_of(tmp_path / home)
        environment.pop(VARIABLE, None)
        done = subprocess.run(
            [python.with_name("rlhf"), *words], env=environment, capture_output=True, text=True
        )
        assert done.returncode == exit_code, done.stdout + done.stderr
        return done.stderr if exit_code else done.stdout

    return run


def test_two_environments_promote_the_quickstart_and_one_finds_its_stages_finished(call, tmp_path):
    two, one = python_of_commands(), Path(sys.executable)
    run = json.loads(call(two, "run", "quickstart", "--json"))
    assert run["promotion"]["promoted"] is True
    again = json.loads(call(two, "run", "quickstart", "--json"))
    assert [stage["cached"] for stage in again["stages"]][:-1] == [True] * 6
    call(two, "doctor")
    for words in (("history", "quickstart-policy"), ("compare", "latest", "latest~1"), ("gates",)):
        call(two, *words)
    refused = call(one, "run", "quickstart", exit_code=2)  # its Prefect is older
    assert "was last used by a later Prefect" in refused
    shutil.copytree(tmp_path / "home" / "runs", tmp_path / "other" / "runs")
    elsewhere = json.loads(call(one, "run", "quickstart", "--json", home="other"))
    assert [stage["cached"] for stage in elsewhere["stages"]][:-1] == [True] * 6
    assert elsewhere["promotion"]["promoted"] is True  # of the same bytes, in another registry
