"""The tables of a SQLite store, made in another file that is renamed when they are complete.

MLflow's migrations of SQLite are not transactional. A process that dies in them, or several that
start them at once, leave a file that no MLflow opens again.
"""

import contextlib
import logging
import shutil
import sqlite3
from pathlib import Path

from rlhf_core.errors import BadInput
from tasks.records.file_lock import locked
from tasks.tracking.address import database_file

log = logging.getLogger("rlhf.tracking")
INCOMPLETE = ".incomplete"  # suffix of a store that was set aside
BEFORE = ".before-upgrade"  # suffix of an older MLflow's store, of which there is a newer copy
RECORDS = ("runs", "registered_models", "experiments WHERE name != 'Default'")
_complete: set[tuple[Path, int]] = set()  # files that this process has examined, with their inode


def ensure_tables(uri: str) -> None:
    """Make the SQLite store at `uri`, complete when its file appears; leave any other store.

    A file without records, whose tables another process left half made, is set aside. One of an
    older MLflow, which this one would upgrade in place, is upgraded as a copy. Raises BadInput for
    a file that is no SQLite database, or cannot be upgraded.
    """
    file = database_file(uri)
    if file is None or _is_usable(file):
        return
    with locked(file.with_name(f".{file.name}.lock")):
        if _is_usable(file):  # another process has made it meanwhile
            return
        if not file.exists():
            _make(file)
        elif _holds_records(file):
            _upgrade(file)
        else:
            aside = file.with_name(file.name + INCOMPLETE)
            file.replace(aside)
            _remove_journals(file)
            log.warning("%s was half made and held no run; it is %s now.", file, aside.name)
            _make(file)


def _is_usable(file: Path) -> bool:
    """Return True for a store that MLflow can be given, which opens it or says why not."""
    if not file.exists():
        return False
    identity = (file, file.stat().st_ino)
    if identity in _complete:
        return True
    tables, revision = _state(file)
    if revision == _newest_revision() or (_holds_records(file) and _all_tables() <= tables):
        _complete.add(identity)
        return True
    return False


def quiet_loggers() -> None:
    """Keep messages of MLflow and alembic below warnings out; their import has let them through."""
    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.WARNING)


def _make(file: Path) -> None:
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    quiet_loggers()
    new, uri = _new(file)
    store = SqlAlchemyStore(uri, (file.absolute().parent / "mlartifacts").as_uri())
    store.engine.dispose()
    SqlAlchemyStore._engine_map.pop(uri, None)  # the file has another name from now on
    new.replace(file)


def _upgrade(file: Path) -> None:
    """Upgrade a copy, and put it in the place of the store, which stays beside it."""
    from alembic.util import CommandError
    from mlflow.store.db.utils import _upgrade_db, create_sqlalchemy_engine
    from sqlalchemy.exc import SQLAlchemyError

    quiet_loggers()
    new, uri = _new(file)
    with (
        contextlib.closing(sqlite3.connect(file, timeout=20)) as old,
        contextlib.closing(sqlite3.connect(new)) as copy,
    ):
        old.backup(copy)
    engine = create_sqlalchemy_engine(uri)
    try:
        _upgrade_db(engine)
    except (SQLAlchemyError, CommandError) as error:
        raise BadInput(
            f"{file} has neither this MLflow's tables nor those of an earlier one"
            f" ({str(error).splitlines()[0]}); expected a whole store. Put a backup in its place,"
            " or move it away and run rlhf sync: it forwards the runs that the store lacks.",
            code="RLHF-S002",
        ) from None
    finally:
        engine.dispose()
    aside = file.with_name(file.name + BEFORE)
    shutil.copy2(file, aside)
    new.replace(file)
    log.warning("%s was upgraded to this MLflow's tables; the old one is %s.", file, aside.name)


def _new(file: Path) -> tuple[Path, str]:
    """Return the file that becomes the store, and its address; what was left of it is removed."""
    new = file.with_name(f".{file.name}.new")  # under the lock: one process writes it
    new.unlink(missing_ok=True)
    _remove_journals(new)
    return new, f"sqlite:///{new}"


def _remove_journals(file: Path) -> None:
    """Remove the journals of a file that is gone; SQLite would apply them to the next file."""
    for suffix in ("-journal", "-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)


# what a store holds


def _state(file: Path) -> tuple[set[str], str | None]:
    """Return the names of a store's tables, and the revision of its schema."""
    try:
        tables = {name for (name,) in _rows(file, "SELECT name FROM sqlite_master")}
        revisions = _rows(file, "SELECT version_num FROM alembic_version")
    except sqlite3.DatabaseError as error:
        raise BadInput(
            f"{file} is no SQLite database ({error}); expected MLflow's store. Move it away, then"
            " run rlhf sync: it forwards what the store lacks."
        ) from None
    return tables, revisions[0][0] if revisions else None


def _holds_records(file: Path) -> bool:
    return any(_rows(file, f"SELECT 1 FROM {what} LIMIT 1") for what in RECORDS)


def _rows(file: Path, query: str) -> list[tuple]:
    """Return the rows of a query, none where there is no such table."""
    with contextlib.closing(sqlite3.connect(file, timeout=20)) as store:
        try:
            return store.execute(query).fetchall()
        except sqlite3.OperationalError as error:
            if "no such" in str(error):
                return []
            raise


def _newest_revision() -> str:
    from mlflow.store.db.utils import _get_latest_schema_revision

    return _get_latest_schema_revision()


def _all_tables() -> set[str]:
    from mlflow.store.db.utils import Base

    return set(Base.metadata.tables)
