"""List this project's deployments on Prefect's server."""

from datetime import datetime
from uuid import UUID

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.client.schemas.filters import (
    DeploymentFilter,
    DeploymentFilterId,
    FlowRunFilter,
    FlowRunFilterStartTime,
    FlowRunFilterState,
    FlowRunFilterStateType,
)
from prefect.client.schemas.objects import FlowRun, StateType
from prefect.client.schemas.responses import DeploymentResponse
from prefect.client.schemas.schedules import SCHEDULE_TYPES, CronSchedule, IntervalSchedule
from prefect.client.schemas.sorting import FlowRunSort
from rich.table import Table

from flows.schedule.existing import existing
from flows.schedule.server import require_server

COLUMNS = ("deployment", "schedule", "starts on", "next run", "latest run", "state", "pool")


def listing() -> list[dict]:
    """Return one row per deployment. Raises BadInput without a server."""
    require_server()
    with get_client(sync_client=True) as client:
        return [_row(client, name, item) for name, item in existing(client).items()]


def _row(client: SyncPrefectClient, name: str, item: DeploymentResponse) -> dict[str, str]:
    following = _run(client, item.id, waiting=True)
    latest = _run(client, item.id, waiting=False)
    triggers = client.read_resource_related_automations(f"prefect.deployment.{item.id}")
    return {
        "deployment": name,
        "schedule": ", ".join(
            schedule_words(slot.schedule) + ("" if slot.active else " (off)")
            for slot in item.schedules
        )
        or "-",
        "starts on": ", ".join(trigger.name for trigger in triggers) or "-",
        "next run": "paused"
        if item.paused
        else _when(following.expected_start_time if following else None),
        "latest run": _when((latest.start_time or latest.expected_start_time) if latest else None),
        "state": (latest and latest.state and latest.state.name) or "-",
        "pool": item.work_pool_name or "served",
    }


def _run(client: SyncPrefectClient, deployment_id: UUID, *, waiting: bool) -> FlowRun | None:
    """Return the next run of a deployment, or the latest one that began.

    A run that exceeds the concurrency limit is cancelled before it begins.
    """
    scheduled = [StateType.SCHEDULED]
    kinds = (
        FlowRunFilterStateType(any_=scheduled)
        if waiting
        else FlowRunFilterStateType(not_any_=scheduled)
    )
    found = client.read_flow_runs(
        deployment_filter=DeploymentFilter(id=DeploymentFilterId(any_=[deployment_id])),
        flow_run_filter=FlowRunFilter(
            state=FlowRunFilterState(type=kinds),
            start_time=FlowRunFilterStartTime(is_null_=waiting),
        ),
        sort=FlowRunSort.EXPECTED_START_TIME_ASC if waiting else FlowRunSort.START_TIME_DESC,
        limit=1,
    )
    return found[0] if found else None


def schedule_words(schedule: SCHEDULE_TYPES) -> str:
    """Return a schedule in words: its cron expression and timezone, or its interval."""
    if isinstance(schedule, CronSchedule):
        return f"{schedule.cron} {schedule.timezone or 'UTC'}"
    assert isinstance(schedule, IntervalSchedule)  # this project makes no other kind
    return f"every {schedule.interval.total_seconds():g} s"


def _when(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M %Z") if time else "-"


def listing_table(rows: list[dict]) -> Table:
    """Return the rows as a table for a terminal."""
    result = Table(title="Deployments", title_justify="left")
    for column in COLUMNS:
        result.add_column(column, overflow="fold")
    for row in rows:
        result.add_row(*(row[column] for column in COLUMNS))
    return result
