"""Runs of a deployment on Prefect's server: start one, and look what became of it."""

from collections.abc import Iterator
from contextlib import contextmanager
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.exceptions import ObjectNotFound

from flows.pipeline import pipeline
from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput

_AT_WORK = [StateType.PENDING, StateType.RUNNING, StateType.CANCELLING]
_NO_SLOT = "concurrency limit"  # in the message of a run that the collision strategy cancelled


class DeployedRuns:
    """The runs of one deployment of the pipeline."""

    def __init__(self, name: str) -> None:
        self._name = f"{pipeline.name}/{name}"

    def is_at_work(self) -> bool:
        """Return True while a run of the deployment goes on."""
        with self._deployment() as (client, deployment):
            found = client.read_flow_runs(
                deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment.id])),
                flow_run_filter=FlowRunFilter(
                    state=FlowRunFilterState(type=FlowRunFilterStateType(any_=_AT_WORK))
                ),
                limit=1,
            )
        return bool(found)

    def never_began(self, run: str) -> bool:
        """Return True for a run that Prefect cancelled because another one went on."""
        with get_client(sync_client=True) as client:
            try:
                state = client.read_flow_run(UUID(run)).state
            except ObjectNotFound:  # somebody deleted it
                return False
        cancelled = state is not None and state.type == StateType.CANCELLED
        return cancelled and _NO_SLOT in ((state and state.message) or "")

    def start(self, recipe: Recipe, key: str) -> str:
        """Start a run on this recipe, and return its id; a key starts one run, however often."""
        with self._deployment() as (client, deployment):
            run = client.create_flow_run_from_deployment(
                deployment.id,
                parameters={"recipe": recipe.model_dump(mode="json")},
                idempotency_key=f"labels-{key}",
            )
        return str(run.id)

    @contextmanager
    def _deployment(self) -> Iterator[tuple[SyncPrefectClient, DeploymentResponse]]:
        with get_client(sync_client=True) as client:
            try:
                yield client, client.read_deployment_by_name(self._name)
            except ObjectNotFound:
                raise BadInput(
                    f"there is no deployment {self._name} any more, so that its labels start"
                    " nothing; deploy it again, or delete the deployment that looks for its labels."
                ) from None
