"""Look into a workspace after the stage program has run in it."""

from pathlib import Path

from mlflow import MlflowClient

from tasks.records.workspace import Workspace


def started(home: Path) -> list[str]:
    """Return the stages that were started since the last call, in their order."""
    file = home / "runs" / "started.log"
    stages = file.read_text().split() if file.exists() else []
    file.unlink(missing_ok=True)
    return stages


def client(home: Path) -> MlflowClient:
    """Return a client of the workspace's own MLflow store."""
    return MlflowClient(tracking_uri=Workspace(home).tracking_uri)
