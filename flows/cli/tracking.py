"""The MLflow client of the commands that read MLflow's store."""

from typing import TYPE_CHECKING

from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from mlflow import MlflowClient


def tracking_client() -> "MlflowClient":
    """Return a client of the tracking store.

    Raises BadInput for an address that no store has, and for a user name and password that the
    server does not know; RLHFError when the store does not answer.
    """
    quiet_libraries()
    from tasks.records.workspace import Workspace
    from tasks.tracking.account import unanswered
    from tasks.tracking.address import require_address
    from tasks.tracking.client import connect

    uri = Workspace.here().tracking_uri
    require_address(uri)
    try:
        client = connect(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise unanswered(uri, error, "Start it, or unset MLFLOW_TRACKING_URI.") from error
    return client
