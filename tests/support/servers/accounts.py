"""An MLflow server with accounts, set as in infra/compose."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from mlflow_server import mlflow_server

from flows.platform.pages import free_port

SETTINGS = Path(__file__).resolve().parents[3] / "infra" / "compose" / "basic_auth.ini"


def password(account: str) -> str:
    return f"{account}-password-1"


@contextlib.contextmanager
def guarded_server(empty_store: Path, folder: Path) -> Iterator[str]:
    """Start a server with an account `admin` in a folder; yield its address."""
    shutil.copy(empty_store, folder / "db")
    text = SETTINGS.read_text().replace(
        "postgresql://mlflow@postgres/mlflow", f"sqlite:///{folder}/accounts.db"
    )
    # a password is hashed once per minute, not with every request
    (folder / "auth.ini").write_text(f"{text}auth_cache_ttl_seconds = 60\n")
    port = free_port()
    environment = {
        "MLFLOW_AUTH_CONFIG_PATH": str(folder / "auth.ini"),
        "MLFLOW_AUTH_ADMIN_PASSWORD": password("admin"),
        "MLFLOW_FLASK_SERVER_SECRET_KEY": "a-key-of-this-test",
    }
    with mlflow_server(folder, port, "--app-name", "basic-auth", **environment):
        yield f"http://127.0.0.1:{port}"


def become(patch: pytest.MonkeyPatch, account: str) -> None:
    """Give this process the name and password of an account."""
    patch.setenv("MLFLOW_TRACKING_USERNAME", account)
    patch.setenv("MLFLOW_TRACKING_PASSWORD", password(account))
