"""Databases of the servers: PostgreSQL, one each for Prefect and MLflow; Prefect's SQLite file.

Prefect makes a new database by more than 100 migrations, which take four seconds. The set-up of a
clone has that done once (`python -m flows.platform.database`), and a new workspace begins with a
copy of the empty database.
"""

import asyncio
import contextlib
import importlib.util
import os
import secrets
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from rlhf_core.errors import BadInput
from rlhf_core.interpreter.installed import package_folder

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DATABASES = {"prefect": "rlhf_prefect", "mlflow": "rlhf_mlflow"}
DRIVERS = {"prefect": "asyncpg", "mlflow": "psycopg2"}
CONNECTION = "PREFECT_SERVER_DATABASE_CONNECTION_URL"
MIGRATIONS = "server/database/_migrations/versions/sqlite"  # of Prefect: a file per revision


def prepare(url: str) -> dict[str, str]:
    """Create the two databases when absent, and return their URLs for 'prefect' and 'mlflow'.

    The URLs hold the password: put them into environments, never into a file or a list of
    arguments. Raises BadInput when the URL is not one, a driver is missing or the server does not
    answer.
    """
    given = _parsed(url)
    for name in DRIVERS.values():
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"the Python package {name} is not installed, and PostgreSQL needs it: pip install"
                f" {name}-binary"
            )
    try:
        asyncio.run(_create(given.set(drivername="postgresql")))
    except OSError as error:
        raise BadInput(f"PostgreSQL at {masked(url)} does not answer: {error}") from None
    return urls_of(url)


def urls_of(url: str) -> dict[str, str]:
    """Return the URLs for 'prefect' and 'mlflow', as `prepare` does, of databases that exist."""
    given = _parsed(url)
    urls = {}
    for name, database in DATABASES.items():
        own = given.set(drivername=f"postgresql+{DRIVERS[name]}", database=database)
        urls[name] = own.render_as_string(hide_password=False)
    return urls


def _parsed(url: str) -> "URL":
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        given = make_url(url)
    except ArgumentError:
        raise BadInput(
            "the database is no URL; expected postgresql://user:password@host:port"
        ) from None
    if not given.drivername.startswith("postgresql"):
        raise BadInput(
            f"the database is {given.drivername}; expected postgresql://user:password@host:port"
        )
    return given


async def _create(url: "URL") -> None:
    import asyncpg

    address = url.set(database=url.database or "postgres").render_as_string(hide_password=False)
    try:
        connection = await asyncpg.connect(address, timeout=10)
    except asyncpg.PostgresError as error:
        raise BadInput(f"PostgreSQL refused the connection: {error}") from None
    try:
        for database in DATABASES.values():
            if not await connection.fetchval(
                "SELECT 1 FROM pg_database WHERE datname = $1", database
            ):
                await connection.execute(f'CREATE DATABASE "{database}"')
    except asyncpg.PostgresError as error:
        raise BadInput(
            f"PostgreSQL did not make the databases {', '.join(DATABASES.values())}: {error}"
        ) from None
    finally:
        await connection.close()


def masked(url: str) -> str:
    """Return the URL without its password."""
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)


def require_readable(home: Path) -> None:
    """Raise BadInput when a later Prefect has changed the SQLite database in Prefect's folder.

    A server brings it to the newest revision that its release knows, and stops at a later one.
    """
    file, package = home / "prefect.db", package_folder("prefect")
    known = [one.name for one in (package / MIGRATIONS).glob("*.py")] if package else []
    revision = _revision(file)
    if not known or revision is None or any(revision in name for name in known):
        return
    raise BadInput(
        f"{file} was last used by a later Prefect than {version('prefect')}, which is installed for"
        f" {sys.executable} and cannot read it; expected the environment that used it last"
        " (.venv/bin/rlhf in a clone). Use that, or another workspace (RLHF_HOME)."
    )


def _revision(file: Path) -> str | None:
    """Return the revision of a database that Prefect has made; None where there is none."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
        ) as store:
            row = store.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error:  # no file, or none that Prefect's server would read
        return None
    return row[0] if row else None


def first_database() -> Path:
    """Return the file of the empty database that was made for the Prefect of this environment."""
    return Path(sys.prefix, "share", "rlhf", f"prefect-{version('prefect')}.db")


def make_first_database() -> None:
    """Have Prefect make an empty database, and keep it in this environment."""
    kept = first_database()
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as home:
        made = Path(home, "prefect.db")
        given = {"PREFECT_HOME": home, CONNECTION: f"sqlite+aiosqlite:///{made}"}
        upgrade = [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"]
        subprocess.run(upgrade, env=os.environ | given, check=True, stdout=subprocess.DEVNULL)
        made.replace(kept)


def prepare_file(home: Path) -> None:
    """Give Prefect's folder the empty database where it has none, and check the one that it has.

    Of several at once one copies. Raises BadInput as require_readable does.
    """
    require_readable(home)
    if (home / "prefect.db").exists() or not first_database().exists():
        return
    home.mkdir(parents=True, exist_ok=True)
    copy = home / f".prefect.db.{secrets.token_hex(8)}"
    # without links, or where another has been faster, the server finds what is there
    with contextlib.suppress(OSError):
        shutil.copyfile(first_database(), copy)
        os.link(copy, home / "prefect.db")
    copy.unlink(missing_ok=True)


if __name__ == "__main__":
    make_first_database()
