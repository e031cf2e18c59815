"""`rlhf serve`: recipes run by this process, as Prefect's server says."""

from typing import Annotated

import typer

from flows.cli.options import Cron, Settings, Timezone, recipe_names
from flows.cli.output import warn_without_stages
from flows.settings import quiet_libraries

RecipeNames = Annotated[
    list[str],
    typer.Argument(
        metavar="RECIPE...", help="Recipes, by name or .toml file", autocompletion=recipe_names
    ),
]


def serve(
    recipes: RecipeNames, settings: Settings = None, cron: Cron = None, timezone: Timezone = "UTC"
) -> None:
    """Run recipes by schedule or from Prefect's page in this process, until Ctrl-C.

    Needs no work pool and no worker.
    """
    quiet_libraries()
    from flows.schedule.serve import serve as serve_deployments

    warn_without_stages()
    serve_deployments(
        recipes, settings or [], (cron, timezone), lambda line: print(line, flush=True)
    )
