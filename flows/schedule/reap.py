"""End in Prefect and MLflow the runs whose process has died, before their heartbeats are missed."""

from dataclasses import dataclass

from prefect import get_client
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterId,
    FlowRunFilterStartTime,
)
from prefect.client.schemas.objects import FlowRun
from prefect.client.schemas.sorting import FlowRunSort
from prefect.settings import PREFECT_API_URL
from prefect.states import Crashed, Scheduled, State

from tasks.records.run_record import Record, record_lock, records
from tasks.records.workspace import Workspace
from tasks.tracking.sync import SyncReport, sync

KILLED = "The process of this run was killed. Run it again and it resumes where it was."


@dataclass(frozen=True)
class Reaped:
    """The runs that were marked as crashed, those that will run again, and what MLflow has now."""

    crashed: list[str]
    again: list[str]
    mlflow: SyncReport


def reap(*, again: bool) -> Reaped:
    """Mark dead runs of this workspace as crashed.

    again: have the worker start the runs of deployments once more instead.
    """
    workspace = Workspace.here()
    crashed: list[str] = []
    restarted: list[str] = []
    for run in _found(_dead(workspace), again=again) if PREFECT_API_URL.value() else []:
        restart = again and run.deployment_id is not None
        state: State = (
            Scheduled(name="AwaitingRetry", message=KILLED) if restart else Crashed(message=KILLED)
        )
        with get_client(sync_client=True) as client:
            client.set_flow_run_state(run.id, state, force=True)
        (restarted if restart else crashed).append(run.name)
    return Reaped(crashed, restarted, sync(workspace))


def _dead(workspace: Workspace) -> list[Record]:
    """Return the records whose lock nobody holds, whether they were known to be dead or not."""
    known = [Record.model_validate(values) for values in records(workspace)]
    unsure = [
        record for record in known if record.flow_run_id and record.status in ("RUNNING", "KILLED")
    ]
    return [record for record in unsure if record.status == "KILLED" or _free(workspace, record)]


def _free(workspace: Workspace, record: Record) -> bool:
    with record_lock(workspace, record.id) as free:
        return free


def _found(dead: list[Record], *, again: bool) -> list[FlowRun]:
    """Return the flow runs of these records that Prefect believes to be alive.

    again: also return those that Prefect has marked as crashed itself, if their deployment has
    not run since.
    """
    if not dead:
        return []
    ids = FlowRunFilterId(any_=[record.flow_run_id for record in dead])
    with get_client(sync_client=True) as client:
        found = client.read_flow_runs(flow_run_filter=FlowRunFilter(id=ids))
    return [run for run in found if _alive(run) or (again and _crashed_last(run))]


def _alive(run: FlowRun) -> bool:
    return bool(run.state and not run.state.is_final() and not run.state.is_scheduled())


def _crashed_last(run: FlowRun) -> bool:
    if not (run.state and run.state.is_crashed()) or run.deployment_id is None:
        return False
    this = DeploymentFilter(id=DeploymentFilterId(any_=[run.deployment_id]))
    with get_client(sync_client=True) as client:
        begun = FlowRunFilter(start_time=FlowRunFilterStartTime(is_null_=False))
        (latest,) = client.read_flow_runs(
            deployment_filter=this, flow_run_filter=begun, sort=FlowRunSort.START_TIME_DESC, limit=1
        )
    return latest.id == run.id
