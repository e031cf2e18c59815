"""`rlhf sweep`: one recipe for several values of its keys."""

from typing import Annotated

import typer

from flows.api.parameter_sweeps import run_request
from flows.cli.options import AsJson, RecipeName, Settings, StageName, metric_names
from flows.cli.output import UNFOLDED, console, print_json, print_parts

Over = Annotated[
    list[str],
    typer.Option(
        "--over",
        metavar="KEY=V1,V2,...",
        help=(
            "A key and its values (TOML), e.g. ppo.beta=0.02,0.1; repeatable: every combination"
            " is run"
        ),
    ),
]
MetricNames = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="NAME",
        autocompletion=metric_names,
        help=(
            "Plot this metric against the key, e.g. eval/win_rate; repeatable (default: score gain,"
            " KL, independent gain)"
        ),
    ),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Runs at the same time, each a process of its own (default: one per GPU; 1 on a CPU)",
    ),
]
LastStage = Annotated[StageName, typer.Option(help="Stop each run after this stage")]
MostRuns = Annotated[int, typer.Option(min=1, help="Refuse a grid larger than this")]


def sweep(
    recipe: RecipeName,
    over: Over,
    settings: Settings = None,
    metric: MetricNames = None,
    jobs: Jobs = None,
    until: LastStage = "evaluate",
    max_runs: MostRuns = 32,
    as_json: AsJson = False,
) -> None:
    """Run a recipe for several values of its keys, and plot metrics against them.

    Stages that runs share are run once. A gate's refusal is a result. Nothing is promoted. Plots
    the metrics against the key, and reward against KL, under one MLflow run. The same command
    resumes a sweep that was interrupted.
    """
    from flows.sweeps.grid import SweepRequest
    from flows.sweeps.sweep import result_lines

    request = SweepRequest(over, settings or [], until, metric or [], max_runs)
    result = run_request(recipe, request, jobs)
    if as_json:
        print_json(result.as_json())
    else:
        out = console(UNFOLDED)
        print_parts(out, result_lines(result, full_links=not out.is_terminal))
    if result.error:
        raise result.error
