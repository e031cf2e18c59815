"""An endpoint of MLflow's AI Gateway: what is refused, and that it is removed whole."""

import pytest
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.credentials import get_default_host_creds
from mlflow_server import mlflow_server

from flows.platform.pages import free_port
from rlhf_core.errors import BadInput, RLHFError
from tasks.live.allowed import ALLOWED
from tasks.live.gateway import Gateway

ADDRESS = "http://127.0.0.1:9/v1"  # nothing listens there


def test_a_store_without_a_server_has_no_gateway():
    with pytest.raises(BadInput, match=r"part of its server.*rlhf up"):
        Gateway("sqlite:///mlflow.db")


@pytest.mark.slow
def test_a_server_that_may_not_ask_this_machine_is_named_with_what_it_needs(tmp_path):
    port = free_port()
    with mlflow_server(tmp_path, port):
        gateway = Gateway(f"http://127.0.0.1:{port}")
        with pytest.raises(BadInput, match=r"ALLOW_PRIVATE_IPS=true.*rlhf down and rlhf up"):
            gateway.set_address("tiny", ADDRESS)
        assert not gateway.has("tiny")


@pytest.mark.slow
def test_a_server_whose_gateway_is_off_is_refused(tmp_path):
    port = free_port()
    with (
        mlflow_server(tmp_path, port, MLFLOW_ENABLE_AI_GATEWAY="false"),
        pytest.raises(BadInput, match=r"has no AI Gateway"),
    ):
        Gateway(f"http://127.0.0.1:{port}").has("tiny")


@pytest.mark.slow
def test_an_endpoint_is_made_moved_and_removed_whole(tmp_path):
    port = free_port()
    with mlflow_server(tmp_path, port, **ALLOWED):
        uri = f"http://127.0.0.1:{port}"
        gateway, store = Gateway(uri), RestStore(lambda: get_default_host_creds(uri))
        for address in (ADDRESS, "http://127.0.0.1:10/v1"):
            gateway.set_address("tiny", address)
        gateway.set_address("other", ADDRESS)
        (secret,) = (one for one in store.list_secret_infos() if one.secret_name.endswith("tiny"))
        assert secret.auth_config == {"api_base": "http://127.0.0.1:10/v1"}
        with pytest.raises(RLHFError, match="gets no reply"):
            gateway.require_answer("tiny")
        gateway.remove("tiny")
        gateway.remove("tiny")  # again: nothing is there
        assert not gateway.has("tiny") and gateway.has("other")
        assert [one.secret_name for one in store.list_secret_infos()] == ["rlhf-live/other"]


@pytest.mark.slow
def test_an_endpoint_of_somebody_else_stays(tmp_path):
    port = free_port()
    with mlflow_server(tmp_path, port, **ALLOWED):
        uri = f"http://127.0.0.1:{port}"
        gateway, store = Gateway(uri), RestStore(lambda: get_default_host_creds(uri))
        gateway.set_address("mine", ADDRESS)
        endpoint = store.get_gateway_endpoint(name="mine")
        store.update_gateway_endpoint(endpoint.endpoint_id, name="tiny")
        with pytest.raises(BadInput, match="an endpoint tiny of somebody else"):
            gateway.set_address("tiny", ADDRESS)
