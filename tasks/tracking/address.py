"""The address of an MLflow store: refused where no store can have it."""

from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from urllib.parse import urlsplit

from rlhf_core.errors import BadInput

SERVERS = ("http", "https")
SQLITE = "sqlite"
DATABASES = ("postgresql", "mysql", "mssql")
EXPECTED = (
    "http://HOST:PORT, https://HOST, sqlite:////FOLDER/FILE.db or postgresql://USER@HOST/NAME"
)


def require_address(uri: str) -> None:
    """Raise BadInput for an address that no MLflow store has.

    A store that does not answer is something else: runs go on without it.
    """
    if problem := _problem(uri) or _folder_problem(uri):
        raise BadInput(
            f"the MLflow address {redacted(uri)!r} {problem}; expected {EXPECTED}. Correct"
            " MLFLOW_TRACKING_URI, or unset it to use the workspace's own store.",
            code="RLHF-S001",
        )


def is_address(uri: str) -> bool:
    """Return True for an address that an MLflow store can have, here or on another machine."""
    return _problem(uri) is None


def redacted(uri: str) -> str:
    """Return the address without its password."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    if parts.password is None:
        return uri
    return parts._replace(netloc=f"{parts.username}:***@{parts.netloc.rpartition('@')[2]}").geturl()


def without_credentials(uri: str) -> str:
    """Return the address without user name and password, as a page that people open has it."""
    try:
        parts = urlsplit(uri)
    except ValueError:
        return uri
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()


def database_file(uri: str) -> Path | None:
    """Return the file of an SQLite store, None for any other store."""
    parts = urlsplit(uri)
    if parts.scheme.partition("+")[0] != SQLITE or parts.netloc or parts.query:
        return None
    name = uri.partition(":///")[2]
    return Path(name) if name and name != ":memory:" and not name.startswith("file:") else None


def _problem(uri: str) -> str | None:
    """Return what is wrong with an address, None where nothing is."""
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname, parts.port
    except ValueError as error:  # a port that is no number, a bracket that is not closed
        return f"is malformed ({error})"
    scheme = parts.scheme.partition("+")[0]
    if scheme in DATABASES or parts.scheme in _others() or uri in _others():
        return None
    if scheme in SERVERS:
        return None if host else "names no host"
    if scheme == SQLITE:
        right = uri.partition(":")[2].startswith("///")
        return None if right else "has another number of slashes than SQLite needs"
    if scheme == "file" or not (scheme or _begins_with_host(uri)):
        return "is a folder, and MLflow 3 has no store in folders"
    return "does not begin with http:// or https://, and is no database"


def _begins_with_host(uri: str) -> bool:
    """Return True for 'HOST:PORT' without a scheme, as in 127.0.0.1:5000."""
    port = uri.partition("/")[0].rpartition(":")[2]
    return ":" in uri and port.isdigit()


def _folder_problem(uri: str) -> str | None:
    file = database_file(uri)
    if file is not None and not file.absolute().parent.is_dir():
        return f"is a file in {file.absolute().parent}, and there is no such folder"
    return None


@cache
def _others() -> frozenset[str]:
    """Return the stores of Databricks, and those that installed packages add to MLflow."""
    added = {point.name for point in entry_points(group="mlflow.tracking_store")}
    return frozenset({"databricks", "databricks-uc", "uc"} | added)
