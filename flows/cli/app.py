"""The command line: `rlhf`. Exit codes: 0 done, 2 bad input or configuration, 3 a gate refused, 1
anything else.
"""

import sys
import traceback
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.approve import approve
from flows.cli.compare import compare, lineage
from flows.cli.deploy import deploy, reap, schedules, serve
from flows.cli.gates import gates
from flows.cli.gc import gc
from flows.cli.output import AsJson, Debug, console, debugging, print_json
from flows.cli.plan import plan
from flows.cli.promote import history, promote, rollback
from flows.cli.reward_report import reward_report
from flows.cli.sweep import sweep
from flows.cli.trace import trace
from flows.cli.ui import doctor, recipes, sync, ui
from flows.cli.up import down, lines, up
from flows.platform import state as platform_state
from rlhf_core.errors import PromotionRefused, RLHFError

EPILOG = (
    "Exit codes: 0 done, 2 bad input or configuration, 3 a gate refused, 1 anything else. "
    "Runs, records and the tracking store lie in ./.rlhf (or RLHF_HOME)."
)
app = typer.Typer(
    name="rlhf",
    help=(
        "RLHF from preference data to a promoted policy: prepare, validate, sft, reward, ppo (or"
        " dpo), evaluate, promote."
    ),
    epilog=EPILOG,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


class Stage(StrEnum):
    """The stages, in order."""

    PREPARE = "prepare"
    VALIDATE = "validate"
    SFT = "sft"
    REWARD = "reward"
    PPO = "ppo"
    DPO = "dpo"
    EVALUATE = "evaluate"
    PROMOTE = "promote"


def _recipes(incomplete: str) -> list[str]:
    """Recipe names, for shell completion."""
    folder = Path(__file__).parents[1] / "recipes"
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem.startswith(incomplete))


RecipeName = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name (see rlhf recipes) or a .toml file",
        autocompletion=_recipes,
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


@app.command()
def run(
    recipe: RecipeName,
    settings: Settings = None,
    from_stage: Annotated[
        Stage | None,
        typer.Option("--from", help="Take the stages before this one as they are recorded"),
    ] = None,
    until: Annotated[Stage | None, typer.Option(help="Stop after this stage")] = None,
    print_launch: Annotated[
        bool,
        typer.Option(
            "--print-launch",
            help="Print the command that would start each stage, and start nothing",
        ),
    ] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Run a recipe's stages; what an earlier run finished is not repeated, what it left half done
    is resumed.
    """
    order = list(Stage)
    if from_stage and until and order.index(from_stage) > order.index(until):
        raise typer.BadParameter(
            f"--from {from_stage} comes after --until {until}: nothing would run."
        )
    if print_launch:
        return _print_launches(recipe, settings or [], as_json)
    from flows.display.run import run_recipe

    span = (from_stage and from_stage.value, until and until.value)
    _finish(run_recipe(recipe, settings or [], span), as_json)


def _print_launches(recipe: str, settings: list[str], as_json: bool) -> None:
    from dataclasses import asdict

    from flows.display.run import quiet_libraries
    from rlhf_core.config import load_recipe

    loaded = load_recipe(recipe, settings)
    quiet_libraries()
    from tasks.records.workspace import Workspace
    from tasks.stages.launch_plan import launches

    found = list(launches(loaded, Workspace.here()))
    if as_json:
        print_json([asdict(one) for one in found])
        return
    for one in found:
        print("\n".join(one.lines()))


@app.command()
def validate(
    recipe: RecipeName, settings: Settings = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """Check a recipe and its data files, and train nothing: prints the data report."""
    from flows.display.run import run_recipe

    _finish(
        run_recipe(recipe, settings or [], (None, Stage.VALIDATE.value), with_report=True), as_json
    )


@app.command()
def status(
    limit: Annotated[int, typer.Option(min=1, help="How many of the latest runs")] = 10,
    as_json: AsJson = False,
) -> None:
    """The platform, if one is up; the latest pipeline runs and how each of their stages stands."""
    from flows.display.status import recent, status_table
    from tasks.records.workspace import Workspace

    runs = recent(limit)
    if as_json:
        print_json(runs)
        return
    platform = platform_state.read(Workspace.here())
    if platform and platform.services:
        print("\n".join(lines(platform)))
    if runs:
        console().print(status_table(runs))
    else:
        print("No runs here yet. Start one with: rlhf run quickstart")


app.command("up")(up)
app.command("down")(down)
app.command("deploy")(deploy)
app.command("schedules")(schedules)
app.command("serve")(serve)
app.command("reap")(reap)
app.command("approve")(approve)
app.command("gc")(gc)
app.command("gates")(gates)
app.command("plan")(plan)
app.command("compare")(compare)
app.command("sweep")(sweep)
app.command("lineage")(lineage)
app.command("trace")(trace)
app.command("reward-report")(reward_report)
app.command("promote")(promote)
app.command("rollback")(rollback)
app.command("history")(history)
for command in (ui, doctor, sync, recipes):
    app.command()(command)


def _finish(outcome, as_json: bool) -> None:
    """Print what a run left, and end with its exit code."""
    if as_json:
        print_json(outcome.as_json())
    else:
        from rich.text import Text

        out = console()
        for part in outcome.tables(full_links=not out.is_terminal):
            out.print(part, soft_wrap=isinstance(part, Text))
    if outcome.error is None:
        return
    if str(outcome.error) in outcome.told and not debugging():
        raise typer.Exit(outcome.error.exit_code)
    raise outcome.error


def main(argv: list[str] | None = None) -> int:
    """Entry point: an error is one message on standard error, with RLHF_DEBUG=1 or --debug its
    traceback too.
    """
    try:
        platform_state.use()
        app(args=argv)
    except PromotionRefused as error:
        return _report(str(error), error.exit_code, "refused")
    except RLHFError as error:
        return _report(str(error), error.exit_code)
    except Exception as error:
        hint = "" if debugging() else " (add --debug for the traceback)"
        return _report(f"unexpected {type(error).__name__}: {error}{hint}", 1)
    return 0


def _report(message: str, code: int, word: str | None = None) -> int:
    if debugging():
        traceback.print_exc()
    word = word or ("a gate refused" if code == 3 else "error")
    print(f"rlhf: {word}: {message}", file=sys.stderr)
    return code
