"""`rlhf deploy`: the pipeline by schedule and by event, on a Prefect server."""

import json
import os
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, Cron, Notify, RecipeName, Settings, Timezone
from flows.platform.prefect_address import VARIABLE
from flows.settings import quiet_libraries

if TYPE_CHECKING:
    from flows.schedule.deploy import DeploymentOptions

DeploymentName = Annotated[
    str, typer.Option("--name", help="The deployment's name; an existing one is replaced")
]
Paused = Annotated[
    bool, typer.Option("--paused", help="Create it without starting anything by itself")
]
WorkPool = Annotated[str, typer.Option(help="Work pool whose worker runs it")]
OnData = Annotated[bool, typer.Option("--on-data", help="Run when the recipe's data files change")]
Watch = Annotated[
    list[str] | None, typer.Option(help="File or folder to watch instead; repeatable")
]
Every = Annotated[
    int, typer.Option(min=10, help="Seconds between two checks of the data, or of the labels")
]
OnLabels = Annotated[
    str | None,
    typer.Option(
        metavar="CAMPAIGN",
        help="Run when this labelling campaign has enough new labels; a pattern ('week-*') takes"
        " later ones too",
    ),
]
MinNew = Annotated[int, typer.Option(min=1, help="New labels that start a run, with --on-labels")]
MinAlpha = Annotated[
    float | None,
    typer.Option(
        min=-1.0,
        max=1.0,
        help="Close no campaign, with --on-labels, where the lower end of alpha's interval is below"
        " this",
    ),
]
OnPromotion = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL", help="Run when this registered model is promoted; repeatable"),
]
OnlyPreview = Annotated[
    bool, typer.Option("--dry-run", help="Say what would be made or replaced, and change nothing")
]
Directory = Annotated[
    str | None,
    typer.Option(help="Folder on the worker's machine in which runs start (default: this one)"),
]


def deploy(
    recipe: RecipeName,
    name: DeploymentName,
    settings: Settings = None,
    cron: Cron = None,
    timezone: Timezone = "UTC",
    paused: Paused = False,
    pool: WorkPool = "rlhf",
    on_data: OnData = False,
    watch: Watch = None,
    every: Every = 300,
    on_labels: OnLabels = None,
    min_new: MinNew = 200,
    min_alpha: MinAlpha = None,
    on_promotion: OnPromotion = None,
    directory: Directory = None,
    notify: Notify = None,
    dry_run: OnlyPreview = False,
    as_json: AsJson = False,
) -> None:
    """Deploy a recipe to a work pool, by cron, data, labels or promotions.

    One run at a time. With --on-labels a run trains on the labels as data.new_comparisons; an open
    campaign with enough pairs is closed by it.
    """
    quiet_libraries()
    from flows.schedule import automations
    from flows.schedule import deploy as deployments
    from rlhf_core.errors import BadInput

    paths = tuple(watch or ()) if on_data or watch else None
    models = tuple(on_promotion or ())
    if on_labels is None and min_alpha is not None:
        raise BadInput(
            "--min-alpha is a bound of the labels that start a run, and there is no --on-labels;"
            " give both, or neither."
        )
    labels = deployments.WantedLabels(on_labels, min_new, min_alpha) if on_labels else None
    wanted = deployments.DeploymentOptions(
        name, pool, cron, timezone, paused, paths, every, models, labels, directory, notify
    )
    if dry_run:
        _print_preview(recipe, settings or [], wanted, as_json)
        return
    made = deployments.deploy(recipe, settings or [], wanted)
    automations.detect_crashes()
    if notify is not None:
        automations.notify(notify)
    _print([deployment.full_name for deployment in made], paused, as_json)


def _print_preview(
    recipe: str, settings: list[str], wanted: "DeploymentOptions", as_json: bool
) -> None:
    from flows.schedule.preview import preview

    found = preview(recipe, settings, wanted)
    if as_json:
        print(json.dumps(asdict(found)))
        return
    for planned in found.deployments:
        print(f"would {planned.sentence}")
    if found.limits:
        limits = "limit" if len(found.limits) == 1 else "limits"
        print(f"would make the concurrency {limits}: {', '.join(found.limits)}")


def _print(names: list[str], paused: bool, as_json: bool) -> None:
    if as_json:
        print(json.dumps({"deployments": names}))
        return
    print(f"deployed: {', '.join(names)}" + (" (paused)" if paused else ""))
    run = f"{_server_of_this_workspace()}prefect deployment run '{names[0]}'"
    print(f"run it now: {run}; all of them: rlhf schedules")


def _server_of_this_workspace() -> str:
    """Return the setting that Prefect's own command needs where `rlhf up` has named the server."""
    from flows.platform import state
    from tasks.records.workspace import Workspace

    platform = state.read(Workspace.here())
    if platform is None or os.environ.get(VARIABLE) != platform.prefect_api:
        return ""
    return f"{VARIABLE}={platform.prefect_api} "
