"""The SQLite database of Prefect, which a later release may have changed."""

import contextlib
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import pytest
from command_line import rlhf_process

from flows.platform import database
from flows.platform.database import (
    MIGRATIONS,
    REGISTER_ON_START,
    first_database,
    make_first_database,
    prepare_file,
    require_readable,
)
from rlhf_core.errors import BadInput
from rlhf_core.interpreter.installed import package_folder


def database_at(revision: str, home: Path) -> Path:
    """Make Prefect's database with nothing but a revision; return its folder."""
    home.mkdir(parents=True)
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as store, store:
        store.execute("CREATE TABLE alembic_version (version_num VARCHAR(32))")
        store.execute("INSERT INTO alembic_version VALUES (?)", (revision,))
    return home


def known_revisions() -> list[str]:
    """Return the revisions of the installed Prefect, the oldest first: date, id, what it does."""
    names = [file.name for file in (package_folder("prefect") / MIGRATIONS).glob("2*.py")]
    return [name.split("_")[4] for name in sorted(names)]


def test_a_database_of_a_revision_that_prefect_knows_is_readable(tmp_path):
    found = known_revisions()
    assert len(found) > 100
    require_readable(database_at(found[-1], tmp_path / "last"))
    require_readable(database_at(found[0], tmp_path / "first"))


def test_no_database_and_a_file_that_is_none_are_left_to_prefect(tmp_path):
    require_readable(tmp_path)
    file = tmp_path / "prefect.db"
    assert not file.exists()
    file.write_text("no database")
    require_readable(tmp_path)
    assert file.read_text() == "no database"


def test_a_database_of_a_later_prefect_is_refused_with_what_to_do(tmp_path):
    home = database_at("f00f00f00f00", tmp_path / "prefect")
    with pytest.raises(BadInput, match=r"later Prefect than \S+, .*\.venv/bin/rlhf.*RLHF_HOME"):
        require_readable(home)


@pytest.fixture
def kept(tmp_path, monkeypatch) -> Path:
    """Let the empty database be kept in the test's folder."""
    monkeypatch.setattr(database, "first_database", lambda: tmp_path / "share" / "first.db")
    return tmp_path / "share" / "first.db"


def rows(home: Path, query: str) -> int:
    with contextlib.closing(sqlite3.connect(home / "prefect.db")) as store:
        return len(store.execute(query).fetchall())


def tables(home: Path) -> int:
    return rows(home, "SELECT name FROM sqlite_master WHERE type = 'table'")


def test_a_new_workspace_begins_with_the_empty_database_of_the_set_up(kept, tmp_path):
    assert prepare_file(tmp_path / "none") == {}
    assert not (tmp_path / "none").exists()  # nothing was made: the server makes one
    make_first_database()
    assert [file.name for file in kept.parent.iterdir()] == ["first.db"]
    home = tmp_path / "prefect"
    with ThreadPoolExecutor(4) as threads:  # as runs that begin at once
        settings = list(threads.map(prepare_file, [home] * 4))
    assert tables(home) > 30 and [file.name for file in home.iterdir()] == ["prefect.db"]
    require_readable(home)
    # its block types need not be registered, as the server of the run that copied is told
    assert rows(home, "SELECT id FROM block_type WHERE is_protected") >= 3
    assert sorted(settings, key=len) == [{}, {}, {}, {REGISTER_ON_START: "false"}]
    database_at(known_revisions()[0], tmp_path / "used")
    assert prepare_file(tmp_path / "used") == {}
    assert tables(tmp_path / "used") == 1  # what is there stays


def test_block_types_are_registered_where_an_earlier_set_up_has_left_them_out(kept, tmp_path):
    database_at(known_revisions()[0], kept.parent)
    (kept.parent / "prefect.db").rename(kept)
    assert prepare_file(tmp_path / "prefect") == {} and tables(tmp_path / "prefect") == 1


def test_the_set_up_has_made_one_for_the_installed_prefect():
    assert first_database().name == f"prefect-{version('prefect')}.db" and first_database().exists()


def test_a_run_says_so_before_it_starts_a_server(home, recipe_file):
    database_at("f00f00f00f00", home / "prefect")
    done = rlhf_process(home, "run", str(recipe_file))
    assert done.returncode == 2 and "later Prefect" in done.stderr, done.stderr
