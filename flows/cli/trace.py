"""`rlhf trace`: one PPO batch, tensor by tensor and token by token."""

import contextlib
import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from rlhf_core.errors import RLHFError

WIDE = 220  # columns of what is not printed to a terminal


def _recipes(incomplete: str) -> list[str]:
    """Recipe names, for shell completion."""
    from rlhf_core.config import RECIPES

    return sorted(path.stem for path in RECIPES.glob("*.toml") if path.stem.startswith(incomplete))


def trace(
    recipe: Annotated[
        str,
        typer.Argument(
            metavar="RECIPE",
            help="A recipe's name (see rlhf recipes) or a .toml file",
            autocompletion=_recipes,
        ),
    ],
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="Change one key of the recipe, e.g. ppo.rollout_batch=8; repeatable",
        ),
    ] = None,
    rows: Annotated[
        int,
        typer.Option(
            min=1,
            help=(
                "How many responses to show: longest, shortest, highest, lowest score, then the"
                " first ones"
            ),
        ),
    ] = 4,
    trained: Annotated[
        bool,
        typer.Option(
            "--trained",
            help="Start from the policy that ppo has made: its KL from the SFT model is not 0",
        ),
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the page goes (default: reports in the workspace)"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Run one real PPO batch and show it: tensors, forward passes, bytes between ranks, and every
    number beside its token.

    Stages up to reward that have not been run are run first, with their gates. Prints tables, and
    writes one HTML page with heat maps.
    """
    from flows.report.heatmap import trace_page

    name, done = _traced(recipe, settings or [], rows, trained)
    flow, tokens = (
        json.loads((done.run_dir / done.result.files[file]).read_text())
        for file in ("trace", "tokens")
    )
    path = _written(html, done.run_dir.name, trace_page(name, flow, tokens))
    if as_json:
        print(
            json.dumps(
                {"trace": flow, "tokens": tokens, "page": str(path), "run_dir": str(done.run_dir)},
                indent=2,
            )
        )
    else:
        _print(flow, tokens, path)


def _traced(name: str, settings: list[str], rows: int, trained: bool):
    """The recipe's name and the trace stage, finished, after the stages that it needs. Raises what
    they raised.
    """
    from flows.display.run import run_recipe

    outcome = run_recipe(name, settings, (None, "reward"))
    if outcome.error is not None:
        if str(outcome.error) in outcome.told:  # the display has shown it in full
            raise typer.Exit(outcome.error.exit_code)
        raise outcome.error
    from rlhf_core.config import load_recipe
    from tasks.records.workspace import Workspace
    from tasks.stages.trace import trace as run_trace

    loaded = load_recipe(name, settings)
    with _saying("trace: one PPO batch ..."):
        return loaded.name, run_trace(loaded, Workspace.here(), rows=rows, trained=trained)


@contextlib.contextmanager
def _saying(what: str):
    """Say on standard error what is going on, live on a terminal."""
    from rich.console import Console

    console = Console(stderr=True)
    if not console.is_terminal:
        print(what, file=sys.stderr, flush=True)
        yield
        return
    with console.status(what):
        yield


def _written(path: Path | None, name: str, page: str) -> Path:
    from tasks.records.workspace import Workspace

    path = path or Workspace.here().home / "reports" / f"{name}.html"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(page, encoding="utf-8")
    except OSError as error:
        raise RLHFError(
            f"the page cannot be written to {path} ({error}). Give another file with --html."
        ) from None
    return path


def _print(flow: dict, tokens: dict, path: Path) -> None:
    from rich.console import Console

    from flows.report.trace_text import trace_lines

    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    for part in trace_lines(flow, tokens):
        console.print(part)
    console.print(f"Page: {path}", soft_wrap=True, markup=False, highlight=False)
