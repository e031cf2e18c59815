"""Databases of the servers: PostgreSQL, one each for Prefect and MLflow; Prefect's SQLite file.

Prefect makes a new database by more than 100 migrations and registers its block types in it, which
takes five seconds. The set-up of a clone has that done once (`python -m flows.platform.database`),
and a new workspace begins with a copy of the empty database.
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
REGISTER_ON_START = "PREFECT_API_BLOCKS_REGISTER_ON_START"
UPGRADE = ("-m", "prefect", "server", "database", "upgrade", "--yes")
REGISTER = ("-c", "from flows.platform import database as d; d.register_block_types()")
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
    return _value_in(file, "mode=ro", "SELECT version_num FROM alembic_version")


def _value_in(file: Path, mode: str, query: str) -> str | None:
    """Return the first value that a query finds; None also where the file cannot be read."""
    try:
        with contextlib.closing(
            sqlite3.connect(f"{file.absolute().as_uri()}?{mode}", uri=True)
        ) as store:
            row = store.execute(query).fetchone()
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
        for words in (UPGRADE, REGISTER):
            command = [sys.executable, *words]
            subprocess.run(command, env=os.environ | given, check=True, stdout=subprocess.DEVNULL)
        made.replace(kept)


def register_block_types() -> None:
    """Register Prefect's block types in the database of this process, as its server does."""
    from prefect.server.database import provide_database_interface
    from prefect.server.models.block_registration import run_block_auto_registration

    async def register() -> None:
        database = provide_database_interface()
        async with await database.session() as session:
            await run_block_auto_registration(session=session)
        await (await database.engine()).dispose()  # the file has all of it

    asyncio.run(register())


def prepare_file(home: Path) -> dict[str, str]:
    """Give Prefect's folder the empty database where it has none, and check the one that it has.

    Of several at once one copies. Returns the settings for the next start of a server there: the
    copy has the block types. Raises BadInput as require_readable does.
    """
    require_readable(home)
    if (home / "prefect.db").exists() or not first_database().exists():
        return {}
    home.mkdir(parents=True, exist_ok=True)
    copy = home / f".prefect.db.{secrets.token_hex(8)}"
    # without links, or where another has been faster, the server finds what is there
    copied = False
    with contextlib.suppress(OSError):
        shutil.copyfile(first_database(), copy)
        os.link(copy, home / "prefect.db")
        copied = True
    copy.unlink(missing_ok=True)
    return {REGISTER_ON_START: "false"} if copied and _has_block_types() else {}


def _has_block_types() -> bool:
    """Return True where the empty database has block types; an earlier set-up left them out."""
    query = "SELECT id FROM block_type LIMIT 1"
    return _value_in(first_database(), "immutable=1", query) is not None  # adds no files to it


if __name__ == "__main__":
    make_first_database()
