"""The tables of a SQLite store, made in another file that is renamed when they are complete.

MLflow's migrations of SQLite are not transactional. A process that dies in them, or several that
start them at once, leave a file that no MLflow opens again.
"""

import contextlib
import fcntl
import logging
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from rlhf_core.errors import BadInput
from tasks.tracking.address import database_file

log = logging.getLogger("rlhf.tracking")
INCOMPLETE = ".incomplete"  # suffix of a store that was set aside
_complete: set[tuple[Path, int]] = set()  # files that this process has examined, with their inode


def ensure_tables(uri: str) -> None:
    """Make the SQLite store at `uri`, complete when its file appears; leave any other store.

    A file without a run, whose tables another process left half made, is set aside: it holds
    nothing. Raises BadInput for a file that is no SQLite database.
    """
    file = database_file(uri)
    if file is None or _is_usable(file):
        return
    with _locked(file):
        if _is_usable(file):  # another process has made it meanwhile
            return
        if file.exists():
            aside = file.with_name(file.name + INCOMPLETE)
            file.replace(aside)
            _remove_journals(file)
            log.warning("%s was half made and held no run; it is %s now.", file, aside.name)
        _make(file)


def _is_usable(file: Path) -> bool:
    """Return True for a store that is there, unless its tables are half made."""
    if not file.exists():
        return False
    identity = (file, file.stat().st_ino)
    if identity not in _complete and _is_half_made(file):
        return False
    _complete.add(identity)
    return True


@contextlib.contextmanager
def _locked(file: Path) -> Iterator[None]:
    """Hold the lock of a store's making; the system frees it when its process dies."""
    with file.with_name(f".{file.name}.lock").open("w", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    new = file.with_name(f".{file.name}.new")  # under the lock: one process writes it
    new.unlink(missing_ok=True)
    _remove_journals(new)
    uri = f"sqlite:///{new}"
    store = SqlAlchemyStore(uri, (file.absolute().parent / "mlartifacts").as_uri())
    store.engine.dispose()
    SqlAlchemyStore._engine_map.pop(uri, None)  # the file has another name from now on
    new.replace(file)


def _remove_journals(file: Path) -> None:
    """Remove the journals of a file that is gone; SQLite would apply them to the next file."""
    for suffix in ("-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


def _is_half_made(file: Path) -> bool:
    """Return True for a store whose tables are incomplete and hold no experiment of a user."""
    from mlflow.store.db.utils import _get_latest_schema_revision

    try:
        with contextlib.closing(sqlite3.connect(file, timeout=20)) as store:
            (tables,) = [{name for (name,) in store.execute("SELECT name FROM sqlite_master")}]
            versions = (
                store.execute("SELECT version_num FROM alembic_version").fetchall()
                if "alembic_version" in tables
                else []
            )
            if versions == [(_get_latest_schema_revision(),)]:
                return False
            return not any(_has_rows(store, name) for name in ("runs", "registered_models"))
    except sqlite3.OperationalError:
        return False  # locked or unreadable: MLflow says so
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{file} is no SQLite database ({error}); expected MLflow's store. Move it away, then"
            " run rlhf sync: it forwards what the store lacks."
        ) from None


def _has_rows(store: sqlite3.Connection, table: str) -> bool:
    try:
        return store.execute(f"SELECT 1 FROM {table} LIMIT 1").fetchone() is not None
    except sqlite3.OperationalError:  # no such table
        return False
