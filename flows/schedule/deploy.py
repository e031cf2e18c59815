"""Deploy a recipe to Prefect.

The recipe itself is the deployment's parameter. So Prefect's page has a form for it, and Prefect's
server checks the input against the schema of the models that read a recipe file.
"""

import os
import re
import shlex
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
from prefect import Flow, get_client
from prefect._vendor.croniter import CroniterBadDateError, croniter
from prefect.client.schemas.objects import (
    ConcurrencyLimitConfig,
    ConcurrencyLimitStrategy,
    WorkPool,
)
from prefect.client.schemas.schedules import CronSchedule
from prefect.deployments.runner import DeploymentApplyError, RunnerDeployment
from prefect.events import DeploymentEventTrigger
from prefect.exceptions import ObjectNotFound
from prefect.types.entrypoint import EntrypointType
from pydantic import ValidationError

from flows.pipeline import pipeline
from flows.schedule import automations
from flows.schedule.labels import WantedLabels, look_for_labels, require_labels
from flows.schedule.server import require_server
from flows.schedule.watch import data_name, remember_digest, watch, watched
from rlhf_core.buckets import is_address
from rlhf_core.config import Recipe, load_recipe
from rlhf_core.errors import BadInput, ConfigError, RLHFError
from tasks.execution import concurrency
from tasks.promotion import announce
from tasks.records.workspace import Workspace

WORKING_DIR = "working_dir"  # the job variable of process pools
CRON_FIELDS = 5
MOST_LETTERS = 200  # of a name, which is part of the names of variables and automations
NAME = re.compile(rf"(?!\s)[^/%&<>\x00-\x1f\x7f]{{1,{MOST_LETTERS}}}(?<!\s)")
ONE_AT_A_TIME = ConcurrencyLimitConfig(
    limit=1, collision_strategy=ConcurrencyLimitStrategy.CANCEL_NEW
)


@dataclass(frozen=True)
class DeploymentOptions:
    """The options of a deployment.

    pool: None for a deployment that this process serves (`rlhf serve`). directory: the folder on
    the worker's machine in which runs start and relative paths begin; None: the pool's own.
    """

    name: str
    pool: str | None
    cron: str | None = None
    timezone: str = "UTC"
    paused: bool = False
    on_data: tuple[str, ...] | None = None  # paths to watch; empty: the recipe's data files
    every: int = 300  # seconds between two checks of the data, and of the labels
    on_promotion: tuple[str, ...] = ()  # registered models
    on_labels: WantedLabels | None = None
    directory: str | None = None
    notify: str | None = None  # an http address, or a Prefect block

    def __post_init__(self) -> None:
        """Raise BadInput for a name that Prefect does not take."""
        if not NAME.fullmatch(self.name):
            raise BadInput(
                f"--name {self.name[: MOST_LETTERS + 1]!r} cannot be a deployment's name; expected"
                f" 1 to {MOST_LETTERS} characters that can be seen, without / % & < >, e.g. weekly."
            )


def deploy(name: str, settings: list[str], wanted: DeploymentOptions) -> list[RunnerDeployment]:
    """Create or replace the deployment of a recipe, and the one that watches its data if asked.

    Raises BadInput without a server or pool, and for a campaign that does not exist, ConfigError
    for a bad cron, timezone or recipe.
    """
    recipe, wanted = checked(name, settings, wanted)
    made = build_deployments(recipe, wanted)
    if wanted.on_data is not None:
        remember_digest(recipe, wanted.name, paths_of(wanted))
    concurrency.create_limits(limits_of(recipe))
    try:
        for deployment in made:
            deployment.apply()
    except (httpx.HTTPError, DeploymentApplyError) as error:
        raise RLHFError(
            f"Prefect's server did not take the deployment: {str(error)[:500]}"
        ) from error
    return made


def checked(
    name: str, settings: list[str], wanted: DeploymentOptions
) -> tuple[Recipe, DeploymentOptions]:
    """Return the recipe and the options, with the folder in which runs of the pool start.

    Raises BadInput without a server or pool and for a bad target of notifications, ConfigError for
    a bad recipe.
    """
    require_server()
    if wanted.notify is not None:
        automations.require_target(wanted.notify)
    recipe = load_recipe(name, settings)
    if wanted.pool:
        wanted = replace(wanted, directory=_directory(_pool(wanted.pool), wanted.directory))
    return recipe, wanted


def limits_of(recipe: Recipe) -> list[str]:
    """Return the concurrency limits that runs of a recipe hold."""
    return [concurrency.model_limit(recipe.registry.name), *concurrency.device_limits()]


def paths_of(wanted: DeploymentOptions) -> list[str] | None:
    """Return the paths to watch; None: the recipe's data files."""
    paths = [
        path if is_address(path) else str(Path(path).expanduser().resolve())
        for path in wanted.on_data or ()
    ]
    return paths or None


def build_deployments(recipe: Recipe, wanted: DeploymentOptions) -> list[RunnerDeployment]:
    """Return the deployments before they are on the server.

    Raises ConfigError for a bad cron, timezone or trigger.
    """
    schedule = _schedule(wanted)
    triggers = [_on_promotion(recipe, wanted, model) for model in wanted.on_promotion]
    if wanted.on_data is not None:
        triggers.append(
            _trigger(
                wanted,
                f"{wanted.name}: data",
                announce.DATA_CHANGED,
                announce.data_resource(wanted.name),
            )
        )
    parameters = {"recipe": recipe.model_dump(mode="json")}
    made = [
        _deployment(
            pipeline,
            wanted,
            wanted.name,
            parameters,
            schedules=[schedule] if schedule else [],
            triggers=triggers,
        )
    ]
    if wanted.on_data is not None:
        paths = paths_of(wanted)
        watched(recipe, paths)  # raises BadInput for none
        values = {"recipe": parameters["recipe"], "deployment": wanted.name, "paths": paths}
        made.append(
            _deployment(watch, wanted, data_name(wanted.name), values, interval=wanted.every)
        )
    if wanted.on_labels is not None:
        require_labels(recipe, wanted.on_labels, Workspace.here())
        looked = {"recipe": parameters["recipe"], "deployment": wanted.name}
        looked |= asdict(wanted.on_labels)
        name = f"{wanted.name}-labels"
        made.append(_deployment(look_for_labels, wanted, name, looked, interval=wanted.every))
    return made


def _deployment(
    flow: Flow, wanted: DeploymentOptions, name: str, parameters: dict, **when: Any
) -> RunnerDeployment:
    in_pool: dict[str, Any] = {"work_pool_name": wanted.pool} if wanted.pool else {}
    if wanted.directory:
        in_pool["job_variables"] = {WORKING_DIR: wanted.directory}
    made = flow.to_deployment(
        name,
        parameters=parameters,
        paused=wanted.paused,
        concurrency_limit=ONE_AT_A_TIME,
        tags=["rlhf"],
        entrypoint_type=EntrypointType.MODULE_PATH,
        **in_pool,
        **when,
    )
    assert isinstance(made, RunnerDeployment)  # a coroutine only inside an event loop
    return made


def _schedule(wanted: DeploymentOptions) -> CronSchedule | None:
    if wanted.cron is None:
        return None
    _require_five_fields(wanted.cron)
    try:
        schedule = CronSchedule(cron=wanted.cron, timezone=wanted.timezone)
    except ValidationError as error:
        found = error.errors()[0]
        key = str(found["loc"][0]) if found["loc"] else "cron"
        example = '"0 2 * * 0"' if key == "cron" else "Europe/Berlin"
        raise ConfigError(
            f"--{key} {getattr(wanted, key)!r} is not valid; expected e.g. {example}."
        ) from None
    _require_date(wanted.cron)
    return schedule


def _require_five_fields(cron: str) -> None:
    """Raise ConfigError for a sixth field, which Prefect reads as seconds, and for a seventh."""
    fields = cron.split()
    if len(fields) == CRON_FIELDS or (len(fields) == 1 and cron.strip().startswith("@")):
        return
    hint = (
        f" Without the seconds it is {shlex.quote(' '.join(fields[1:]))}."
        if len(fields) == CRON_FIELDS + 1
        else ""
    )
    raise ConfigError(
        f"--cron {cron!r} has {len(fields)} fields; expected five (minute, hour, day of month,"
        f' month, day of week) or a word such as @daily, e.g. "0 2 * * 0".{hint}'
    )


def _require_date(cron: str) -> None:
    """Raise ConfigError for an expression without a date, such as February 31."""
    try:
        croniter(cron, datetime.now(UTC)).get_next()
    except CroniterBadDateError:
        raise ConfigError(
            f"--cron {cron!r} has no date: no day of month and month in it go together; expected"
            ' e.g. "0 2 * * 0", Sundays at 2.'
        ) from None


def _on_promotion(recipe: Recipe, wanted: DeploymentOptions, model: str) -> DeploymentEventTrigger:
    if model in (f"{recipe.registry.name}-policy", f"{recipe.registry.name}-reward"):
        raise ConfigError(
            f"--on-promotion {model}: this recipe promotes {model} itself, and would start itself"
            " again."
        )
    return _trigger(
        wanted, f"promotion of {model}", announce.PROMOTED, announce.model_resource(model)
    )


def _trigger(
    wanted: DeploymentOptions, name: str, event: str, resource: str
) -> DeploymentEventTrigger:
    return DeploymentEventTrigger(
        name=f"rlhf: {name}",
        expect={event},
        match={"prefect.resource.id": resource},
        enabled=not wanted.paused,
    )


def _directory(pool: WorkPool, asked: str | None) -> str | None:
    """Return the folder in which runs of this pool start: as asked, else the current one.

    None where jobs run in an image, which says where they start.
    """
    if WORKING_DIR in pool.base_job_template.get("variables", {}).get("properties", {}):
        return asked or os.getcwd()
    if asked:
        raise BadInput(
            f"runs of the {pool.type} pool {pool.name} start where their image says; leave out"
            " --directory."
        )
    return None


def _pool(pool: str) -> WorkPool:
    with get_client(sync_client=True) as client:
        try:
            return client.read_work_pool(pool)
        except ObjectNotFound:
            known = ", ".join(item.name for item in client.read_work_pools()) or "none"
            raise BadInput(
                f"there is no work pool {pool!r}; there is {known}. Make one: prefect work-pool"
                f" create {pool} --type process"
            ) from None
