"""Deployments of this project as Prefect's server has them: find them, and remove one."""

from collections.abc import Iterator
from contextlib import contextmanager

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound
from prefect.variables import Variable

from flows.schedule.server import require_server
from flows.schedule.watch import data_name, variable_of
from rlhf_core.errors import BadInput

OURS = DeploymentFilter(tags=DeploymentFilterTags(all_=["rlhf"]))


def existing(client: SyncPrefectClient) -> dict[str, DeploymentResponse]:
    """Return this project's deployments by 'FLOW/NAME', in the order of their names."""
    flows = {flow.id: flow.name for flow in client.read_flows()}
    found = client.read_deployments(deployment_filter=OURS)
    return {
        f"{flows.get(item.flow_id, '?')}/{item.name}": item
        for item in sorted(found, key=lambda item: item.name)
    }


def undeploy(name: str, *, dry_run: bool = False) -> list[str]:
    """Remove a deployment, the one that watches its data, their schedules and triggers.

    name: as given to `rlhf deploy`, or with its flow (rlhf/weekly). Runs that have begun go on.
    dry_run: remove nothing. Return what is removed. Raises BadInput, with the names that there are,
    for another name.
    """
    require_server()
    with get_client(sync_client=True) as client:
        chosen = _named(existing(client), name)
        if dry_run:
            return list(chosen)
        for item in chosen.values():
            client.delete_resource_owned_automations(f"prefect.deployment.{item.id}")
            with _gone_already():
                client.delete_deployment(item.id)
    Variable.unset(variable_of(name.rpartition("/")[2]))
    return list(chosen)


def _named(found: dict[str, DeploymentResponse], name: str) -> dict[str, DeploymentResponse]:
    """Return the deployments of a name: itself, and the one that watches its data."""
    wanted = name.rpartition("/")[2]
    chosen = {
        full: item
        for full, item in found.items()
        if full == name or ("/" not in name and item.name == name)
    }
    if not chosen:
        there = ", ".join(found) or "none"
        raise BadInput(f"there is no deployment {name!r} of this project; there is {there}.")
    watching = {full: item for full, item in found.items() if item.name == data_name(wanted)}
    return chosen | watching


@contextmanager
def _gone_already() -> Iterator[None]:
    """Pass over a deployment that somebody has removed meanwhile."""
    try:
        yield
    except ObjectNotFound:
        return
