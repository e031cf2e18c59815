"""An open campaign in a real MLflow store, and people who answer in it."""

from collections.abc import Callable

import pytest
from campaigns import OpenedCampaign, opened_campaign

from tasks.records.workspace import Workspace


@pytest.fixture
def open_campaign_of(home) -> Callable[..., OpenedCampaign]:
    """Open a campaign for annotators, on made pairs."""

    def opened(count: int, *annotators: str, overlap: float = 0.0) -> OpenedCampaign:
        return opened_campaign(Workspace(home), count, *annotators, overlap=overlap)

    return opened


@pytest.fixture
def accounts_campaign(home, empty_store, tmp_path, monkeypatch, open_campaign_of):
    """A campaign for `ann` on a server with accounts, on which `bob` may write as well."""
    from accounts import become, guarded_server, password
    from mlflow.server.auth.client import AuthServiceClient

    folder = tmp_path / "server"
    folder.mkdir()
    with guarded_server(empty_store, folder) as uri:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        become(monkeypatch, "admin")
        client = AuthServiceClient(uri)
        for name in ("ann", "bob"):
            client.create_user(name, password(name))
        made = open_campaign_of(4, "ann")
        client.grant_user_permission("bob", "experiment", made.campaign.experiment_id, "EDIT")
        yield made
