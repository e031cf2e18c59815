"""A SQLite store is complete or absent, whatever dies while it is made.

The processes are real, and killed.
"""

import contextlib
import os
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rlhf_core.errors import BadInput
from tasks.tracking.client import connect, require_store
from tasks.tracking.sqlite_store import BEFORE, INCOMPLETE

OPEN = """
import sys
from tasks.tracking.client import connect
print("starts", flush=True)
client = connect(sys.argv[1])
client.search_experiments(), client.search_registered_models()
print("opened", flush=True)
"""


def has_content(folder: Path) -> bool:
    """Return True if a file of the folder has bytes; SQLite's journals come and go."""
    with contextlib.suppress(FileNotFoundError):
        return any(file.stat().st_size for file in folder.iterdir())
    return False


def opening(uri: str) -> subprocess.Popen:
    """Start a process that opens a store."""
    return subprocess.Popen(
        [sys.executable, "-c", OPEN, uri],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[4])},
    )


@pytest.mark.parametrize("seconds", [0.1, 0.6])
def test_a_process_killed_while_it_makes_the_store_leaves_one_that_opens(tmp_path, seconds):
    file = tmp_path / "mlflow.db"
    process = opening(f"sqlite:///{file}")
    end = time.monotonic() + 120
    while not has_content(tmp_path):
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    client = connect(f"sqlite:///{file}")
    assert [experiment.name for experiment in client.search_experiments()] == ["Default"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".mlflow.db.lock", "mlflow.db"]


def test_a_run_does_not_wait_for_a_new_store_at_its_start(tmp_path):
    file = tmp_path / "mlflow.db"
    require_store(f"sqlite:///{file}")  # the first call of `connect` makes it, see below
    assert not file.exists()


def test_processes_that_open_a_new_store_at_once_all_succeed(tmp_path):
    processes = [opening(f"sqlite:///{tmp_path / 'mlflow.db'}") for _ in range(3)]
    outputs = [process.communicate(timeout=300)[0] for process in processes]
    assert all("opened" in output for output in outputs), outputs


def test_a_store_that_an_earlier_release_left_half_made_is_set_aside(tmp_path):
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE alembic_version (version_num TEXT)")
        store.execute("CREATE TABLE _alembic_tmp_latest_metrics (key TEXT)")
        store.execute("CREATE TABLE runs (run_uuid TEXT)")
    store.close()
    client = connect(f"sqlite:///{file}")
    assert client.create_experiment("tiny")
    assert (tmp_path / f"mlflow.db{INCOMPLETE}").exists()


def test_a_half_made_store_with_runs_is_left_as_it_is_and_refused(tmp_path):
    file = tmp_path / "mlflow.db"
    with sqlite3.connect(file) as store:
        store.execute("CREATE TABLE runs (run_uuid TEXT)")
        store.execute("INSERT INTO runs VALUES ('x')")
    store.close()
    before = file.read_bytes()
    for opens in (require_store, connect):
        with pytest.raises(BadInput, match=r"mlflow\.db has neither .* a backup"):
            opens(f"sqlite:///{file}")
    assert file.read_bytes() == before and not (tmp_path / f"mlflow.db{INCOMPLETE}").exists()


@pytest.fixture
def older_store(tmp_path) -> Path:
    """A store with an experiment, of an MLflow before the registry of MCP servers."""
    from alembic import command
    from mlflow.store.db.utils import InitialBase, _get_alembic_config, create_sqlalchemy_engine

    file = tmp_path / "mlflow.db"
    engine = create_sqlalchemy_engine(f"sqlite:///{file}")
    InitialBase.metadata.create_all(engine)
    config = _get_alembic_config(str(engine.url))
    with engine.begin() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "b7e4c1a90f23")
    engine.dispose()
    with sqlite3.connect(file) as store:
        store.execute("INSERT INTO experiments (name, lifecycle_stage) VALUES ('old', 'active')")
    store.close()
    return file


def test_the_store_of_an_older_mlflow_is_upgraded_as_a_copy(older_store):
    before = older_store.read_bytes()
    client = connect(f"sqlite:///{older_store}")
    assert "old" in [experiment.name for experiment in client.search_experiments()]
    assert older_store.with_name(f"mlflow.db{BEFORE}").read_bytes() == before


def test_an_upgrade_that_is_killed_leaves_the_store_of_the_older_mlflow(older_store):
    before = older_store.read_bytes()
    process = opening(f"sqlite:///{older_store}")
    new = older_store.with_name(".mlflow.db.new")
    end = time.monotonic() + 120
    while not new.exists():
        assert process.poll() is None and time.monotonic() < end
        time.sleep(0.001)
    process.kill()
    process.communicate()
    assert older_store.read_bytes() == before
    client = connect(f"sqlite:///{older_store}")
    assert "old" in [experiment.name for experiment in client.search_experiments()]


def test_a_file_that_is_no_database_is_bad_input(tmp_path):
    file = tmp_path / "mlflow.db"
    file.write_text("some text " * 100)
    with pytest.raises(BadInput, match=r"is no SQLite database.*rlhf sync"):
        connect(f"sqlite:///{file}")


def test_a_finished_store_is_left_as_it_is(home):
    before = (home / "mlflow.db").read_bytes()
    connect(f"sqlite:///{home / 'mlflow.db'}")
    assert (home / "mlflow.db").read_bytes() == before


def test_a_store_is_made_without_messages_of_mlflow(tmp_path):
    """Bug: `rlhf up` began with two lines about tables on standard error."""
    code = "from tasks.tracking.sqlite_store import ensure_tables as e; import sys; e(sys.argv[1])"
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path / 'mlflow.db'}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (tmp_path / "mlflow.db").exists() and not done.stdout + done.stderr
