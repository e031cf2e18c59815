"""`rlhf trace`: one PPO batch, tensor by tensor and token by token; or the timeline of a run."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, PageFile, Settings, recipe_names, run_names
from flows.cli.output import console, print_json, print_page_path, write_page
from flows.cli.runs.outcome import raise_error
from rlhf_core.errors import ConfigError

if TYPE_CHECKING:
    from tasks.analysis.timeline import StageTimeline
    from tasks.execution.stage_process import StageRun

WIDE = 220  # columns outside a terminal
ROWS = 4

TracedRows = Annotated[
    int,
    typer.Option(
        min=1,
        help=(
            "Number of responses to show: longest, shortest, highest and lowest score, then the"
            " first ones"
        ),
    ),
]
Trained = Annotated[
    bool,
    typer.Option(
        "--trained",
        help="Start from the policy that ppo has made: its KL from the SFT model is not 0",
    ),
]
DrawTimeline = Annotated[
    bool,
    typer.Option(
        "--timeline",
        help=(
            "Run nothing, and write a run's timeline to FILE (default: in the workspace's reports):"
            " stages, steps and their parts, for ui.perfetto.dev or chrome://tracing"
        ),
    ),
]
RecipeOrRun = Annotated[
    str,
    typer.Argument(
        metavar="RECIPE",
        help="A recipe's name or a .toml file; with --timeline a run's name (see rlhf status)",
        autocompletion=lambda incomplete: recipe_names(incomplete) + run_names(incomplete),
    ),
]
TimelineFile = Annotated[
    Path | None, typer.Argument(metavar="FILE", help="With --timeline alone", show_default=False)
]


def trace(
    recipe: RecipeOrRun,
    target: TimelineFile = None,
    settings: Settings = None,
    rows: TracedRows = ROWS,
    trained: Trained = False,
    timeline: DrawTimeline = False,
    html: PageFile = None,
    as_json: AsJson = False,
) -> None:
    """Run one PPO batch and show its tensors and tokens, or write a run's timeline.

    A batch: shows every number of a token beside it, the forward passes, and the bytes between
    ranks. Stages up to reward that have not been run are run first, with their gates. Prints
    tables, and writes one HTML page with heat maps. With --timeline: writes when the stages of a
    run, their steps, and PPO's learner and sampler were at work.
    """
    if timeline:
        _require_alone(settings=settings, rows=rows != ROWS, trained=trained, html=html)
        _write_timeline(recipe, target, as_json=as_json)
        return
    if target is not None:
        raise ConfigError(
            f"rlhf trace got {target} beside {recipe}, without --timeline; expected one recipe. Add"
            " --timeline to write the timeline of a run there, or --html for the page."
        )
    from flows.report.heatmap import trace_page
    from tasks.records.workspace import Workspace

    name, done = _traced(recipe, settings or [], rows, trained)
    flow, tokens = (
        json.loads((done.run_dir / done.result.files[file]).read_text(encoding="utf-8"))
        for file in ("trace", "tokens")
    )
    path = html or Workspace.here().home / "reports" / f"{done.run_dir.name}.html"
    write_page(path, trace_page(name, flow, tokens))
    if as_json:
        print_json(
            {"trace": flow, "tokens": tokens, "page": str(path), "run_dir": str(done.run_dir)}
        )
    else:
        _print(flow, tokens, path)


def _require_alone(**options: object) -> None:
    """Raise ConfigError for an option that has no meaning with --timeline."""
    given = [f"--{'set' if name == 'settings' else name}" for name, one in options.items() if one]
    if given:
        raise ConfigError(
            f"rlhf trace --timeline with {' and '.join(given)}; expected a run alone, and"
            " optionally FILE: a timeline shows what was recorded. Leave them out."
        )


def _write_timeline(run: str, file: Path | None, *, as_json: bool) -> None:
    """Write the timeline of a run, and print what is in it. Raises ConfigError, BadInput."""
    from tasks.analysis.gate_report import find_run
    from tasks.analysis.timeline import chrome_trace, timelines
    from tasks.records.workspace import Workspace

    record = find_run(Workspace.here(), run)
    stages = timelines(record)
    path = file or Workspace.here().home / "reports" / f"{record.name}-timeline.json"
    write_page(path, json.dumps(chrome_trace(record.name, stages)), named_by="FILE")
    if as_json:
        print_json({"timeline": str(path), "stages": [stage.summary() for stage in stages]})
        return
    for stage in stages:
        print(_line(stage))
    print(f"Timeline: {path} (open it in https://ui.perfetto.dev or chrome://tracing)")


def _line(stage: "StageTimeline") -> str:
    """Return one stage's time in words."""
    if stage.cached:
        return f"{stage.stage}: finished before this run; nothing of it ran"
    text = f"{stage.stage}: {stage.seconds:.1f} s, {stage.steps} steps"
    if stage.generation:
        text += (
            f"; the sampler generated for {stage.generation:.1f} s, {stage.overlap:.1f} of them"
            " while the learner scored or updated"
        )
    return text


def _traced(name: str, settings: list[str], rows: int, trained: bool) -> "tuple[str, StageRun]":
    """Run what the trace needs, then the trace; return the recipe's name and the finished stage.

    Raises what the stages raise.
    """
    from flows.display.run import run_recipe
    from rlhf_core.config import load_recipe
    from tasks.stages.trace import require_traceable

    loaded = load_recipe(name, settings)
    require_traceable(loaded)
    ran = run_recipe(name, settings, (None, "reward"))
    raise_error(ran)
    from tasks.promotion.rival import models_brought
    from tasks.records.workspace import Workspace
    from tasks.stages.trace import trace as run_trace

    workspace = Workspace.here()
    brought = models_brought(loaded, workspace)
    with _progress("trace: one PPO batch ..."):
        done = run_trace(
            loaded, workspace, rows=rows, trained=trained, brought=brought, record=ran.record
        )
    return loaded.name, done


@contextlib.contextmanager
def _progress(message: str) -> Iterator[None]:
    """Show a message on standard error while the block runs, live on a terminal."""
    from rich.console import Console

    errors = Console(stderr=True)
    if not errors.is_terminal:
        print(message, file=sys.stderr, flush=True)
        yield
        return
    with errors.status(message):
        yield


def _print(flow: dict, tokens: dict, path: Path) -> None:
    from flows.report.trace_text import trace_lines

    out = console(WIDE)
    for part in trace_lines(flow, tokens):
        out.print(part)
    print_page_path(path)
