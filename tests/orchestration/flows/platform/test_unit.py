"""The systemd user unit: absolute, without secrets, and what systemd can read."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from flows.platform.start import PlatformOptions
from flows.platform.unit import instructions, unit
from rlhf_core.errors import BadInput
from tasks.records.workspace import Workspace

PROGRAM = Path(sys.executable).with_name("rlhf")


def settings(text: str) -> dict[str, list[str]]:
    """The settings of a unit, by name."""
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if "=" in line and not line.startswith("#"):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_this_workspace_with_these_options_and_holds_no_password(
    tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    url = "postgresql://rlhf:hidden@127.0.0.1:5432"
    text = unit(Workspace(tmp_path / "home"), PlatformOptions(4300, 5100, url, "gpu", 1))
    found = settings(text)
    words = [f"{PROGRAM}", "up", "--prefect-port", "4300", "--port", "5100"]
    assert shlex.split(found["ExecStart"][0]) == [*words, "--pool", "gpu", "--limit", "1"]
    assert found["WorkingDirectory"] == [str(tmp_path)]
    assert f'"RLHF_HOME={tmp_path}/home"' in found["Environment"]
    assert found["PIDFile"] == [f"{tmp_path}/home/platform/keeper.pid"]
    assert found["EnvironmentFile"] == [f"-{tmp_path}/home/platform/environment"]
    assert "hidden" not in text and "RLHF_DATABASE_URL" not in text


@pytest.mark.parametrize("name", ["home", "a b", "100%h", 'a"b', "a'b", "$HOME", "a\\b"])
def test_systemd_finds_nothing_wrong_with_it_where_it_is_there(tmp_path, monkeypatch, name):
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    text = unit(Workspace(folder / "home"), PlatformOptions())
    file = tmp_path / "rlhf.service"
    file.write_text(text)
    assert name.replace("%", "%%") in settings(text)["WorkingDirectory"][0]
    if (analyze := shutil.which("systemd-analyze")) is None:
        return
    (tmp_path / "run").mkdir(mode=0o700)
    done = subprocess.run(
        [analyze, "--user", "--man=no", "verify", str(file)],
        env=os.environ | {"XDG_RUNTIME_DIR": str(tmp_path / "run")},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_a_unit_cannot_say_is_refused(tmp_path, monkeypatch):
    with pytest.raises(BadInput, match="exclude each other"):
        unit(Workspace(tmp_path), PlatformOptions(restart=False))
    with pytest.raises(BadInput, match="has a line break"):
        unit(Workspace(tmp_path / "a\nb"), PlatformOptions())


def test_the_instructions_name_the_commands_and_the_file_of_secrets(tmp_path):
    text = instructions(Workspace(tmp_path))
    assert "systemctl --user enable --now rlhf" in text and "loginctl enable-linger" in text
    assert f"{tmp_path}/platform/environment, mode 600" in text
