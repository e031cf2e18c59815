"""`rlhf deploy`, `rlhf schedules`, `rlhf serve`: the pipeline by schedule and by event, on a
Prefect server.
"""

import json
from typing import Annotated

import typer

Names = Annotated[
    list[str], typer.Argument(metavar="RECIPE...", help="Recipes, by name or .toml file")
]
Recipe = Annotated[
    str, typer.Argument(metavar="RECIPE", help="A recipe's name (see rlhf recipes) or a .toml file")
]
Settings = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key of the recipe; repeatable"),
]
Cron = Annotated[
    str | None,
    typer.Option(
        help='When to run, e.g. "0 2 * * 0": Sundays at 2 [default: only by hand or event]'
    ),
]
Timezone = Annotated[str, typer.Option(help="Of the cron expression, e.g. Europe/Berlin")]
Notify = Annotated[
    str | None,
    typer.Option(
        help=(
            "Tell this http address, or Prefect block (slack-webhook/team), of refusals, failures,"
            " promotions ..."
        )
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")]


def deploy(
    recipe: Recipe,
    name: Annotated[str, typer.Option(help="The deployment's name; an existing one is replaced")],
    settings: Settings = None,
    cron: Cron = None,
    timezone: Timezone = "UTC",
    paused: Annotated[
        bool, typer.Option("--paused", help="Create it without starting anything by itself")
    ] = False,
    pool: Annotated[str, typer.Option(help="Work pool whose worker runs it")] = "rlhf",
    on_data: Annotated[
        bool, typer.Option("--on-data", help="Run when the recipe's data files change")
    ] = False,
    watch: Annotated[
        list[str] | None, typer.Option(help="File or folder to watch instead; repeatable")
    ] = None,
    every: Annotated[int, typer.Option(min=10, help="Seconds between looks at the data")] = 300,
    on_promotion: Annotated[
        list[str] | None,
        typer.Option(
            metavar="MODEL", help="Run when this registered model is promoted; repeatable"
        ),
    ] = None,
    directory: Annotated[
        str | None,
        typer.Option(help="Folder on the worker's machine in which runs start [default: this one]"),
    ] = None,
    notify: Notify = None,
    as_json: AsJson = False,
) -> None:
    """Deploy a recipe to a work pool: by cron, when data change, when a model is promoted. One run
    at a time.
    """
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.schedule import automations
    from flows.schedule.deploy import DeploymentOptions, deploy

    paths = tuple(watch or ()) if on_data or watch else None
    wanted = DeploymentOptions(
        name, pool, cron, timezone, paused, paths, every, tuple(on_promotion or ()), directory
    )
    made = deploy(recipe, settings or [], wanted)
    automations.detect_crashes()
    if notify:
        automations.notify(notify)
    names = [deployment.full_name for deployment in made]
    if as_json:
        print(json.dumps({"deployments": names}))
        return
    print(f"deployed: {', '.join(names)}" + (" (paused)" if paused else ""))
    print(f"run it now: prefect deployment run '{names[0]}'; all of them: rlhf schedules")


def schedules(as_json: AsJson = False) -> None:
    """The deployments on the Prefect server: when each runs next, and how its latest run ended."""
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.schedule.listing import listing, table

    rows = listing()
    if as_json:
        print(json.dumps(rows, indent=2))
    elif rows:
        from rich.console import Console

        console = Console()
        (console if console.is_terminal else Console(width=200)).print(table(rows))
    else:
        print(
            'Nothing is deployed. Deploy a recipe with: rlhf deploy RECIPE --name weekly --cron "0'
            ' 2 * * 0"'
        )


def serve(
    recipes: Names, settings: Settings = None, cron: Cron = None, timezone: Timezone = "UTC"
) -> None:
    """Run recipes by schedule, or from Prefect's page, in this process and without a work pool,
    until Ctrl-C.
    """
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.schedule.serve import serve

    serve(recipes, settings or [], (cron, timezone), lambda line: print(line, flush=True))


def reap(
    again: Annotated[
        bool, typer.Option("--again", help="Start runs of deployments once more; they resume")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Mark runs of this workspace whose process has died as crashed in Prefect, and close their
    MLflow runs.
    """
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.schedule.reap import reap

    done = reap(again=again)
    if as_json:
        print(
            json.dumps({"crashed": done.crashed, "again": done.again, "mlflow": vars(done.mlflow)})
        )
        return
    print(f"crashed: {', '.join(done.crashed) or 'none'}")
    if again:
        print(f"to run again: {', '.join(done.again) or 'none'}")
    print(f"closed in MLflow: {done.mlflow}")
