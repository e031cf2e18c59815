"""The account under which MLflow's server knows this process, where the server has accounts."""

from dataclasses import dataclass

from mlflow.exceptions import MlflowException
from mlflow.utils.credentials import get_default_host_creds
from mlflow.utils.rest_utils import http_request
from requests import Response

from rlhf_core.errors import BadInput, RLHFError
from tasks.records.process_identity import Identity, user
from tasks.tracking.address import SERVERS, redacted
from tasks.tracking.client import brief

_CURRENT = "/api/2.0/mlflow/users/current"
_PERMISSION = "/api/3.0/mlflow/users/permissions/get"
_GRANT = "/api/3.0/mlflow/users/permissions/grant"
_UNKNOWN = 401  # the server knows no such user name and password
_ABSENT = (404, 405)  # the server has no such address: it has no accounts
_WRITING = ("EDIT", "MANAGE")  # MLflow's permissions that let an account write


@dataclass(frozen=True)
class Account:
    """Who acts. name: the account of MLflow's server, else user@host, which nobody checks."""

    name: str
    identity: Identity
    is_admin: bool = False

    @property
    def is_authenticated(self) -> bool:
        """True if MLflow's server knows this process by its password."""
        return self.identity == "account"


def account_at(uri: str) -> Account:
    """Return the account of this process at a store; user@host where it has no accounts.

    Raises BadInput when the server refuses user name or password, RLHFError for another answer, and
    what MLflow raises when there is none.
    """
    if not is_server(uri):
        return Account(user(), "declared")
    reply = _get(uri, _CURRENT)
    if reply.status_code in _ABSENT:
        return Account(user(), "declared")
    if reply.status_code in (_UNKNOWN, 403):
        raise _refused(uri)
    if reply.status_code != 200:
        raise RLHFError(
            f"MLflow at {redacted(uri)} does not say which account this is: it answers"
            f" {reply.status_code}."
        )
    found = reply.json()["user"]
    return Account(found["username"], "account", bool(found["is_admin"]))


def unanswered(uri: str, error: Exception, advice: str) -> RLHFError:
    """Return the error of a command that a store gives no answer, with what to do about it.

    It is BadInput where a server refuses user name and password: to ask again would not help.
    """
    if isinstance(error, MlflowException) and error.get_http_status_code() == _UNKNOWN:
        return _refused(uri)
    return RLHFError(
        f"MLflow at {redacted(uri)} does not answer ({brief(error)}). {advice}", code="RLHF-S003"
    )


def _refused(uri: str) -> BadInput:
    return BadInput(
        f"MLflow at {redacted(uri)} has accounts, and accepts no user name and password of"
        " yours. Set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD."
    )


def is_server(uri: str) -> bool:
    """Return True for the address of an MLflow server, which may have accounts."""
    return uri.partition("://")[0] in SERVERS


def may_write_model(uri: str, account: Account, model: str) -> bool:
    """Return True if an account of the server may write versions and aliases of a model.

    Of a model that does not exist, the server says no; who makes it may write it.
    """
    if account.is_admin:
        return True
    asked = {"username": account.name, "resource_type": "registered_model", "resource_id": model}
    reply = _get(uri, _PERMISSION, params=asked)
    return reply.status_code == 200 and reply.json().get("permission") in _WRITING


def let_write_experiment(uri: str, account: str, experiment_id: str) -> None:
    """Let an account of the server write an experiment, which this process must manage.

    Raises BadInput for an account that the server does not know or may not be given the right.
    """
    right = {
        "username": account,
        "resource_type": "experiment",
        "resource_id": experiment_id,
        "permission": "EDIT",
    }
    creds = get_default_host_creds(uri)
    reply = http_request(creds, _GRANT, "POST", max_retries=2, timeout=30, json=right)
    if reply.status_code != 200:
        raise BadInput(
            f"MLflow at {redacted(uri)} does not let {account!r} write experiment {experiment_id}"
            f" ({reply.status_code}: {reply.text[:200]}); expected an account of the server. Have"
            " an admin create it, or give it the permission EDIT."
        )


def _get(uri: str, path: str, **values: object) -> Response:
    """Return the reply to a question, which is not repeated for long: runs wait for it."""
    return http_request(
        get_default_host_creds(uri), path, "GET", max_retries=2, timeout=30, **values
    )
