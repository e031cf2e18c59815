"""The start of calls from Python and of commands: servers, quiet libraries, MLflow's client."""

from typing import TYPE_CHECKING

from flows.platform import state
from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from mlflow import MlflowClient

    from tasks.records.workspace import Workspace


def begin(*, writing: bool = False) -> "Workspace":
    """Use the platform of this workspace where one runs, keep libraries quiet, and return it.

    Raises BadInput for a workspace that cannot be used, or not written where `writing` says so.
    """
    from tasks.records.workspace import Workspace

    state.use()
    quiet_libraries()
    workspace = Workspace.here()
    if writing:
        workspace.require_writable()
    return workspace


def tracking_client() -> "MlflowClient":
    """Return a client of the tracking store.

    Raises BadInput for an address that no store has, and for a user name and password that the
    server does not know; RLHFError when the store does not answer.
    """
    workspace = begin()
    from tasks.tracking.account import unanswered
    from tasks.tracking.address import require_address
    from tasks.tracking.client import connect

    uri = workspace.tracking_uri
    require_address(uri)
    try:
        client = connect(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise unanswered(uri, error, "Start it, or unset MLFLOW_TRACKING_URI.") from error
    return client
