"""The arguments and options that several commands share, and what the shell completes them with."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from rlhf_core.stage_catalogue import STAGES, steps

if TYPE_CHECKING:
    StageName = str
    StepName = str
else:  # the choices of an option
    StageName = Literal[tuple(STAGES)]
    StepName = Literal[steps()]


def recipe_names(incomplete: str) -> list[str]:
    """Return the names of the recipes that begin with `incomplete`."""
    from rlhf_core.config import RECIPES

    return sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem.startswith(incomplete))


def run_names(incomplete: str) -> list[str]:
    """Return `latest` and this workspace's run names, the latest first, that begin so."""
    from tasks.analysis.gate_report import run_names as known
    from tasks.records.workspace import Workspace

    names = dict.fromkeys(["latest", *known(Workspace.here())])
    return [name for name in names if name.startswith(incomplete)]


def metric_names(incomplete: str) -> list[str]:
    """Return the names of the metrics that begin with `incomplete`."""
    from rlhf_core.metrics import METRICS

    return sorted(name for name in METRICS if name.startswith(incomplete))


def _set_debug(debug: bool) -> bool:
    if debug:
        os.environ["RLHF_DEBUG"] = "1"
    return debug


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")]
Debug = Annotated[
    bool,
    typer.Option(
        "--debug",
        callback=_set_debug,
        help="Show the traceback of an error, and Prefect's log (RLHF_DEBUG=1)",
    ),
]
RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name (see rlhf recipes) or a .toml file",
        autocompletion=recipe_names,
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="KEY=VALUE",
        help="Change one key of the recipe, e.g. ppo.beta=0.1; repeatable",
    ),
]
RunName = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        help="A run's name (see rlhf status), the beginning of its id, latest or latest~1",
        autocompletion=run_names,
    ),
]
PageFile = Annotated[
    Path | None,
    typer.Option(
        "--html", metavar="FILE", help="File for the page (default: in the workspace's reports)"
    ),
]
Cron = Annotated[
    str | None,
    typer.Option(
        help='When to run, e.g. "0 2 * * 0": Sundays at 2 (default: only by hand or event)'
    ),
]
Timezone = Annotated[str, typer.Option(help="Of the cron expression, e.g. Europe/Berlin")]
Notify = Annotated[
    str | None,
    typer.Option(
        help=(
            "Notify this http address, or Prefect block (slack-webhook/team), of refusals,"
            " failures, promotions ..."
        )
    ),
]
Filters = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[FILTER]...",
        help=(
            "A recipe's name, a pattern of run names (quickstart-*), or a condition on a recipe key"
            " or metric (ppo.beta=0.1, eval/win_rate>0.6, status!=FAILED); a run must meet all"
        ),
    ),
]
