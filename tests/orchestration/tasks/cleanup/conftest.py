"""An empty workspace and its MLflow store."""

import pytest
from mlflow import MlflowClient

from tasks.records.workspace import Workspace


@pytest.fixture
def workspace(home) -> Workspace:
    return Workspace(home)


@pytest.fixture
def client(workspace) -> MlflowClient:
    return MlflowClient(tracking_uri=workspace.tracking_uri)
