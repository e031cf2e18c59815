"""The quickstart by commands and flows that have an environment of their own: `make test-slow`."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import environment_of

from rlhf_core import ROOT
from tasks.execution.stage_python import VARIABLE

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2400)]


@pytest.fixture(scope="module")
def control(tmp_path_factory) -> Path:
    """The `rlhf` of an environment with control.txt and this checkout."""
    folder = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    install = [str(folder / "bin" / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
    lock = ROOT / "infra" / "requirements" / "control.txt"
    subprocess.run([*install, "-r", str(lock)], check=True)
    subprocess.run([*install, "--editable", str(ROOT)], check=True)
    return folder / "bin" / "rlhf"


@pytest.fixture
def call(control, tmp_path):
    """Run that command, with the stages in the environment of these tests."""
    environment = environment_of(tmp_path / "home") | {VARIABLE: sys.executable}

    def run(*words: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            [str(control), *words], env=environment, capture_output=True, text=True
        )

    return run


def test_the_quickstart_is_promoted_without_torch_on_the_side_of_the_commands(control, call):
    has_torch = [str(control.parent / "python"), "-c", "import torch"]
    assert subprocess.run(has_torch, capture_output=True).returncode != 0
    done = call("run", "quickstart", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["promotion"]["promoted"] is True
    again = call("run", "quickstart", "--json")  # everything is finished, the champion is the same
    assert again.returncode == 0, again.stderr
    assert call("doctor").returncode == 0
    for words in (("history", "quickstart-policy"), ("compare", "latest", "latest~1"), ("gates",)):
        done = call(*words)
        assert done.returncode == 0, done.stdout + done.stderr
