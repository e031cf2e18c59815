"""`rlhf sweep`: one recipe over several values of its keys."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import console


class Until(StrEnum):
    """The last stage of each run; a sweep promotes nothing."""

    PREPARE = "prepare"
    VALIDATE = "validate"
    SFT = "sft"
    REWARD = "reward"
    PPO = "ppo"
    DPO = "dpo"
    EVALUATE = "evaluate"


def _recipes(incomplete: str) -> list[str]:
    """Recipe names, for shell completion."""
    folder = Path(__file__).parents[1] / "recipes"
    return sorted(path.stem for path in folder.glob("*.toml") if path.stem.startswith(incomplete))


def _metrics(incomplete: str) -> list[str]:
    """Metric names, for shell completion."""
    from rlhf_core.metrics import METRICS

    return sorted(name for name in METRICS if name.startswith(incomplete))


def sweep(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe's name (see rlhf recipes) or a .toml file",
            autocompletion=_recipes,
        ),
    ],
    over: Annotated[
        list[str],
        typer.Option(
            "--over",
            metavar="KEY=V1,V2,...",
            help="A key and its values (TOML), e.g. ppo.beta=0.02,0.1; "
            "repeatable: every combination is run",
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Change one key for every run; repeatable"),
    ] = None,
    metric: Annotated[
        list[str] | None,
        typer.Option(
            "--metric",
            metavar="NAME",
            autocompletion=_metrics,
            help="Shown against the key, e.g. eval/win_rate; "
            "repeatable (default: score gain, KL, independent gain)",
        ),
    ] = None,
    jobs: Annotated[
        int | None,
        typer.Option(
            min=1, help="Runs at once, each a process of its own (default: one per GPU; 1 on a CPU)"
        ),
    ] = None,
    until: Annotated[Until, typer.Option(help="Stop each run after this stage")] = Until.EVALUATE,
    max_runs: Annotated[int, typer.Option(min=1, help="Refuse a grid larger than this")] = 32,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Run a recipe over several values of its keys: shared stages run once, a gate's refusal is a
    result, nothing is promoted.

    Draws the metrics against the key and reward against KL, under one MLflow run. The same command
    goes on where it was.
    """
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from flows.sweeps import sweep as sweeping
    from flows.sweeps.grid import SweepRequest, make_plan
    from flows.sweeps.runs import default_jobs

    plan = make_plan(
        recipe, SweepRequest(over, settings or [], until.value, metric or [], max_runs)
    )
    result = sweeping.run_sweep(
        plan, jobs or default_jobs(), lambda text: typer.echo(text, err=True)
    )
    if as_json:
        print(json.dumps(result.as_json(), indent=2, default=str))
    else:
        _print(sweeping.results, result)
    if result.error:
        raise result.error


def _print(results, result) -> None:
    from rich.text import Text

    out = console()
    for part in results(result, full_links=not out.is_terminal):
        out.print(part, soft_wrap=isinstance(part, Text))
