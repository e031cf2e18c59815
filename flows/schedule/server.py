"""The Prefect server that deployments are made on: it must answer, and know this release."""

import prefect
from packaging.version import Version
from prefect import get_client
from prefect.client.base import ServerType
from prefect.settings import PREFECT_API_URL

from flows.platform.pages import NO_ACCOUNT, refuses_account
from rlhf_core.errors import BadInput


def require_server() -> None:
    """Raise BadInput unless a Prefect server is configured, answers and takes the account.

    It must be of this release or a later one: an earlier one refuses requests whose form it does
    not know.
    """
    url = PREFECT_API_URL.value()
    if not url:
        raise BadInput(
            "there is no Prefect server: start one with rlhf up, or set PREFECT_API_URL."
        )
    release = ""
    try:
        with get_client(sync_client=True) as client:
            problem = client.api_healthcheck()
            if not problem:
                client.read_flows(limit=1)  # the health check needs no account
            if not problem and client.server_type != ServerType.CLOUD:  # always up to date
                release = client.api_version()
    except Exception as error:
        if refuses_account(error):
            raise BadInput(NO_ACCOUNT.format(url=url)) from error
        problem = error
    if problem:
        raise BadInput(
            f"the Prefect server at {url} does not answer; start it (rlhf up), or set"
            " PREFECT_API_URL.",
            code="RLHF-S004",
        )
    require_release(url, release)


def require_release(url: str, release: str) -> None:
    """Raise BadInput for a server whose release, where it is known, is before this one."""
    if release and Version(release) < Version(prefect.__version__):
        raise BadInput(
            f"the Prefect server at {url} is {release}, older than Prefect here,"
            f" {prefect.__version__}, and refuses requests that it does not know; expected the"
            " same release or a later one. Update the server (the images of this release have it),"
            " or use an environment with its release."
        )
