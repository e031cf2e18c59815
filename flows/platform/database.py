"""Use PostgreSQL instead of SQLite: one database for Prefect, one for MLflow."""

import asyncio
import importlib.util
from typing import TYPE_CHECKING

from rlhf_core.errors import BadInput

if TYPE_CHECKING:
    from sqlalchemy.engine import URL

DATABASES = {"prefect": "rlhf_prefect", "mlflow": "rlhf_mlflow"}
DRIVERS = {"prefect": "asyncpg", "mlflow": "psycopg2"}


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
