"""`rlhf run`: run the stages of a recipe."""

from typing import Annotated, get_args

import typer

from flows.cli.options import AsJson, Debug, RecipeName, Settings, StepName
from flows.cli.output import print_json
from flows.cli.runs.outcome import finish
from flows.platform import ephemeral_server
from flows.settings import quiet_libraries
from rlhf_core.config import Recipe, load_recipe
from tasks.records.workspace import Workspace
from tasks.tracking.address import require_address

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
    order = get_args(StepName)
    if from_stage and until and order.index(from_stage) > order.index(until):
        raise typer.BadParameter(
            f"--from {from_stage} comes after --until {until}: nothing would run."
        )
    loaded = load_recipe(recipe, settings or [])
    if print_launch:
        _print_launches(loaded, as_json)
        return
    require_address(Workspace.here().tracking_uri)
    ephemeral_server.start_early()
    from flows.display.run import run_recipe

    finish(run_recipe(recipe, settings or [], (from_stage, until)), as_json)


def _print_launches(recipe: Recipe, as_json: bool) -> None:
    from dataclasses import asdict

    quiet_libraries()
    from tasks.stages.launch_plan import launches

    found = list(launches(recipe, Workspace.here()))
    if as_json:
        print_json([asdict(launch) for launch in found])
        return
    for launch in found:
        print("\n".join(launch.lines()))
