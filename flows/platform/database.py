"""PostgreSQL instead of SQLite: one database for Prefect, one for MLflow, made when absent."""

import asyncio
import importlib.util

from rlhf_core.errors import BadInput

DATABASES = {"prefect": "rlhf_prefect", "mlflow": "rlhf_mlflow"}
DRIVERS = {"prefect": "asyncpg", "mlflow": "psycopg2"}


def prepare(url: str) -> dict[str, str]:
    """The two databases' URLs, for 'prefect' and 'mlflow', with the password: for environments,
    never for a file or a list of arguments. Raises BadInput when the URL is none, a driver is
    missing or the server does not answer.
    """
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
    for name in DRIVERS.values():
        if importlib.util.find_spec(name) is None:
            raise BadInput(
                f"the Python package {name} is not installed, and PostgreSQL needs it: pip install"
                f" {name}-binary"
            )
    plain = given.set(drivername="postgresql")
    try:
        asyncio.run(_create(plain))
    except OSError as error:
        raise BadInput(f"PostgreSQL at {masked(url)} does not answer: {error}") from None
    return {
        name: (
            given.set(drivername=f"postgresql+{DRIVERS[name]}", database=database).render_as_string(
                hide_password=False
            )
        )
        for name, database in DATABASES.items()
    }


async def _create(url) -> None:
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
    """The URL without its password."""
    from sqlalchemy.engine import make_url

    return make_url(url).render_as_string(hide_password=True)
