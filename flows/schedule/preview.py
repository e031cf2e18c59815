"""A preview of what `rlhf deploy` makes on Prefect's server."""

from dataclasses import dataclass, field

from prefect import get_client
from prefect.client.orchestration import SyncPrefectClient
from prefect.deployments.runner import RunnerDeployment
from prefect.exceptions import ObjectNotFound

from flows.schedule.deploy import DeploymentOptions, build_deployments, checked, limits_of
from flows.schedule.existing import existing
from flows.schedule.listing import schedule_words


@dataclass(frozen=True)
class PlannedDeployment:
    """One deployment. replaces: there is one of that name, which would get these settings."""

    deployment: str
    replaces: bool
    schedule: str
    starts_on: list[str]
    pool: str | None
    directory: str | None
    paused: bool

    @property
    def sentence(self) -> str:
        """The things that would be made, in one sentence."""
        verb = "replace" if self.replaces else "create"
        parts = [self.schedule or "no schedule", f"starts on: {', '.join(self.starts_on) or '-'}"]
        parts += [f"pool {self.pool}"] * bool(self.pool)
        parts += [f"in {self.directory}"] * bool(self.directory)
        return f"{verb} {self.deployment}: {'; '.join(parts)}" + " (paused)" * self.paused


@dataclass(frozen=True)
class DeploymentPreview:
    """The deployments, and the concurrency limits that are missing."""

    deployments: list[PlannedDeployment] = field(default_factory=list)
    limits: list[str] = field(default_factory=list)


def preview(name: str, settings: list[str], wanted: DeploymentOptions) -> DeploymentPreview:
    """Return what deploy would make, after the same checks. Raises what deploy raises."""
    recipe, wanted = checked(name, settings, wanted)
    made = build_deployments(recipe, wanted)
    with get_client(sync_client=True) as client:
        there = existing(client)
        limits = [limit for limit in limits_of(recipe) if not _has_limit(client, limit)]
    return DeploymentPreview(
        [_planned(each, wanted, replaces=each.full_name in there) for each in made], limits
    )


def _planned(
    made: RunnerDeployment, wanted: DeploymentOptions, *, replaces: bool
) -> PlannedDeployment:
    return PlannedDeployment(
        made.full_name,
        replaces,
        ", ".join(schedule_words(slot.schedule) for slot in made.schedules or [] if slot.schedule),
        [str(getattr(trigger, "name", None) or trigger.type) for trigger in made.triggers],
        wanted.pool,
        wanted.directory,
        wanted.paused,
    )


def _has_limit(client: SyncPrefectClient, name: str) -> bool:
    try:
        client.read_global_concurrency_limit_by_name(name)
    except ObjectNotFound:
        return False
    return True
