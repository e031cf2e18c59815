"""The workspace's folder: made when absent, refused where it cannot be used."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from unprivileged import without_privileges

from rlhf_core.errors import BadInput
from tasks.records.workspace import Workspace

CODE = """
import sys
from tasks.records.workspace import Workspace
try:
    Workspace.here().require_writable()
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
"""


def test_a_path_with_a_question_mark_is_refused_before_anything_is_made(tmp_path, monkeypatch):
    monkeypatch.setenv("RLHF_HOME", str(tmp_path / "h?q=1"))
    with pytest.raises(BadInput, match=r"question mark.*RLHF_HOME"):
        Workspace.here()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a b", "a#b", "a%20b", "\u00e4\u00f6\u00fc", "a&b=c", "a;b"])
def test_a_store_is_where_the_path_says(tmp_path, monkeypatch, name):
    from tasks.tracking.client import connect

    monkeypatch.setenv("RLHF_HOME", str(tmp_path / name))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace.here()
    connect(workspace.tracking_uri).search_experiments()
    assert (tmp_path / name / "mlflow.db").stat().st_size > 0
    assert [path.name for path in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("mode", [0o700, 0o744, 0o711], ids=oct)
def test_the_workspace_of_another_user_is_no_empty_workspace(mode, monkeypatch):
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        home = Path(name, "home")
        home.mkdir()
        home.chmod(mode if os.getuid() == 0 else mode & 0o077)
        monkeypatch.setenv("RLHF_HOME", str(home))
        try:
            if os.getuid() == 0:  # nothing is unreadable to root
                os.seteuid(12345)
            with pytest.raises(BadInput, match=r"may not be read by user .*RLHF_HOME"):
                Workspace.here()
        finally:
            if os.getuid() == 0:
                os.seteuid(0)
            home.chmod(0o700)


def test_a_workspace_that_cannot_be_made_is_bad_input(monkeypatch):
    monkeypatch.setenv("RLHF_HOME", "/dev/null/w")
    with pytest.raises(BadInput, match=r"/dev/null/w cannot be made .* Set RLHF_HOME"):
        Workspace.here()


@pytest.mark.parametrize("place", ["", "prefect", "mlflow.db"])
def test_a_workspace_that_may_not_be_written_is_bad_input(tmp_path, place):
    home = tmp_path / "w"
    (home / "prefect").mkdir(parents=True)
    (home / "mlflow.db").write_text("")
    (home / place).chmod(0o555)
    done = subprocess.run(
        without_privileges(sys.executable, "-c", CODE),
        capture_output=True,
        text=True,
        env=os.environ | {"RLHF_HOME": str(home)},
    )
    (home / place).chmod(0o755)
    said = done.stderr.splitlines()[-1] if done.stderr else ""
    assert said.startswith("BadInput") and f"{home / place} cannot be written" in said


def test_a_workspace_of_ones_own_is_taken(home):
    Workspace.here().require_writable()
