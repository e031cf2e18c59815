"""`rlhf trace`: one PPO batch, tensor by tensor and token by token."""

import contextlib
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.cli.options import AsJson, PageFile, RecipeName, Settings
from flows.cli.output import console, print_json, print_page_path, write_page
from flows.cli.runs.outcome import raise_error

if TYPE_CHECKING:
    from tasks.execution.stage_process import StageRun

WIDE = 220  # columns outside a terminal

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


def trace(
    recipe: RecipeName,
    settings: Settings = None,
    rows: TracedRows = 4,
    trained: Trained = False,
    html: PageFile = None,
    as_json: AsJson = False,
) -> None:
    """Run one PPO batch and show its tensors, forward passes, bytes and tokens.

    Shows every number of a token beside it, and the bytes between ranks. Stages up to reward that
    have not been run are run first, with their gates. Prints tables, and writes one HTML page with
    heat maps.
    """
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


def _traced(name: str, settings: list[str], rows: int, trained: bool) -> "tuple[str, StageRun]":
    """Run what the trace needs, then the trace; return the recipe's name and the finished stage.

    Raises what the stages raise.
    """
    from flows.display.run import run_recipe

    raise_error(run_recipe(name, settings, (None, "reward")))
    from rlhf_core.config import load_recipe
    from tasks.records.workspace import Workspace
    from tasks.stages.trace import trace as run_trace

    loaded = load_recipe(name, settings)
    with _progress("trace: one PPO batch ..."):
        return loaded.name, run_trace(loaded, Workspace.here(), rows=rows, trained=trained)


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
