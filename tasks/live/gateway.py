"""An endpoint of MLflow's AI Gateway that passes requests on to a live model's router.

It is an option: it costs more per request than the router, and adds MLflow's accounts and pages
(infra/docs/operate/live.md). An endpoint is a gateway secret (address and key), a model definition,
and the link of both under a name.
"""

import contextlib
from collections.abc import Iterator

from mlflow.entities import GatewayEndpoint, GatewayEndpointModelConfig, GatewayModelLinkageType
from mlflow.exceptions import MlflowException
from mlflow.store.tracking.rest_store import RestStore
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request

from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.live.reply_log import UNLOGGED
from tasks.live.allowed import ALLOWED, PASSTHROUGH
from tasks.tracking.account import is_server, unanswered
from tasks.tracking.address import redacted
from tasks.tracking.client import brief

OWNER = "rlhf-live"  # prefix of the secrets and model definitions that are made here
PROVIDER = "openai"
START = "Start it with rlhf up."
ANSWER_SECONDS = 120  # the very first reply of a machine compiles for some 15 s


class Gateway:
    """The AI Gateway of one MLflow server."""

    def __init__(self, uri: str):
        """Raise BadInput where the tracking store is no server."""
        if not is_server(uri):
            raise BadInput(
                f"MLflow's AI Gateway is part of its server, and the tracking store is"
                f" {redacted(uri)}; expected the address of a server. Start one with rlhf up, or"
                " set MLFLOW_TRACKING_URI."
            )
        self.uri = uri
        self._store = RestStore(lambda: get_default_host_creds(uri))

    def set_address(self, name: str, address: str) -> None:
        """Send the requests of the endpoint `name` to the OpenAI server at `address` from now on.

        The endpoint is made when absent. address: with /v1. Raises BadInput where the server's
        gateway is off, or may not send requests there.
        """
        with self._errors():
            found = self._find(name)
        owned = found.model_mappings[0].model_definition if found else None
        if found and (owned is None or owned.name != _title(name)):
            raise BadInput(
                f"the gateway of MLflow at {redacted(self.uri)} has an endpoint {name} of somebody"
                " else; expected none of that name. Remove it, or leave --gateway out."
            )
        with self._errors():
            if found is None:
                self._remove_parts(name)  # of an endpoint that was removed by hand
                definition = self._store.create_gateway_model_definition(
                    _title(name), self._secret(name, address), PROVIDER, name
                )
                link = GatewayEndpointModelConfig(
                    definition.model_definition_id, GatewayModelLinkageType.PRIMARY
                )
                self._store.create_gateway_endpoint(name, [link], usage_tracking=False)
            else:
                self._secret(name, address)

    def remove(self, name: str) -> None:
        """Remove an endpoint with its secrets and model definitions; absent ones are no error."""
        with self._errors():
            if endpoint := self._find(name):
                self._store.delete_gateway_endpoint(endpoint.endpoint_id)
            self._remove_parts(name)

    def has(self, name: str) -> bool:
        """Return True if there is an endpoint. Raises BadInput where the server has no gateway."""
        with self._errors():
            return self._find(name) is not None

    def require_answer(self, name: str) -> None:
        """Ask the endpoint for one token. Raises RLHFError where it gives no reply."""
        body = {"model": name, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}
        try:
            reply = http_request(
                get_default_host_creds(self.uri),
                f"{PASSTHROUGH}/chat/completions",
                "POST",
                max_retries=0,
                timeout=ANSWER_SECONDS,
                extra_headers={UNLOGGED.decode(): "1"},
                json=body,
            )
            found = "" if reply.status_code == 200 else f"{reply.status_code}: {reply.text[:300]}"
        except MlflowException as error:  # of a status that MLflow would ask again at
            found = brief(error)
        if found:
            raise RLHFError(
                f"the gateway of MLflow at {redacted(self.uri)} has the route {name}, and gets no"
                f" reply by it ({found}); expected an MLflow server that runs on this machine and"
                " may be asked by this account."
            )

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        """Turn what MLflow raises in the block into one error of this project."""
        try:
            yield
        except MlflowException as error:
            raise self._refused(error) from error
        except Exception as error:
            raise unanswered(self.uri, error, START) from error

    def _find(self, name: str) -> GatewayEndpoint | None:
        found = self._store.list_gateway_endpoints()
        return next((endpoint for endpoint in found if endpoint.name == name), None)

    def _secret(self, name: str, address: str) -> str:
        """Return the id of the secret with an endpoint's address; made when absent."""
        known = self._store.list_secret_infos()
        place = {"api_base": address}
        if found := next((each for each in known if each.secret_name == _title(name)), None):
            self._store.update_gateway_secret(found.secret_id, auth_config=place)
            return found.secret_id
        # the router wants no key, and MLflow wants one
        made = self._store.create_gateway_secret(_title(name), {"api_key": "none"}, PROVIDER, place)
        return made.secret_id

    def _remove_parts(self, name: str) -> None:
        """Remove an endpoint's model definition and secret."""
        for definition in self._store.list_gateway_model_definitions():
            if definition.name == _title(name):
                self._store.delete_gateway_model_definition(definition.model_definition_id)
        for secret in self._store.list_secret_infos():
            if secret.secret_name == _title(name):
                self._store.delete_gateway_secret(secret.secret_id)

    def _refused(self, error: MlflowException) -> RLHFError:
        if "api_base" in str(error):
            settings = " ".join(f"{name}={value}" for name, value in ALLOWED.items())
            return BadInput(
                f"the gateway of MLflow at {redacted(self.uri)} may not send requests to a server"
                f" of this machine ({brief(error)}). Start that server with {settings}; one of an"
                " earlier release is started anew with rlhf down and rlhf up."
            )
        if error.get_http_status_code() in (404, 501):
            return BadInput(
                f"MLflow at {redacted(self.uri)} has no AI Gateway ({brief(error)}); expected"
                " version 3.17 with MLFLOW_ENABLE_AI_GATEWAY unset or true."
            )
        return unanswered(self.uri, error, START)


def _title(name: str) -> str:
    return f"{OWNER}/{name}"
