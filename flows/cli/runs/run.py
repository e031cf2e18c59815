"""`rlhf run`: run the stages of a recipe."""

from typing import Annotated

import typer

from flows.api.pipeline_runs import outcome_of, require_span
from flows.cli.options import AsJson, Debug, RecipeName, Settings, StepName
from flows.cli.output import print_json
from flows.cli.runs.outcome import finish
from flows.settings import quiet_libraries
from rlhf_core.config import Recipe, load_recipe
from rlhf_core.errors import ConfigError
from tasks.records.workspace import Workspace

FromStage = Annotated[
    StepName | None,
    typer.Option("--from", help="Take the stages before this one as they are recorded"),
]
UntilStage = Annotated[StepName | None, typer.Option(help="Stop after this stage")]
PrintLaunch = Annotated[
    bool,
    typer.Option(
        "--print-launch", help="Print the command that would start each stage, and start nothing"
    ),
]


def run(
    recipe: RecipeName,
    settings: Settings = None,
    from_stage: FromStage = None,
    until: UntilStage = None,
    print_launch: PrintLaunch = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run the stages of a recipe: skip finished ones, resume an interrupted one."""
    span = (from_stage, until)
    try:
        require_span(span)
    except ConfigError as error:
        raise typer.BadParameter(str(error)) from None
    if print_launch:
        _print_launches(load_recipe(recipe, settings or []), as_json)
    else:
        finish(outcome_of(recipe, settings or [], span), as_json)


def _print_launches(recipe: Recipe, as_json: bool) -> None:
    from dataclasses import asdict

    quiet_libraries()
    from tasks.leakage.planned import added_by_run
    from tasks.promotion.rival import models_brought
    from tasks.stages.launch_plan import launches

    workspace = Workspace.here()
    brought = models_brought(recipe, workspace)
    found = list(launches(recipe, workspace, brought, added_by_run(recipe, workspace)))
    if as_json:
        print_json([asdict(launch) for launch in found])
        return
    for launch in found:
        print("\n".join(launch.lines()))
