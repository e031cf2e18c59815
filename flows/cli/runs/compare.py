"""`rlhf compare`: runs side by side."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.api.comparisons import compare as compared
from flows.cli.options import AsJson, PageFile, run_names
from flows.cli.output import console, print_json, print_page_path, write_page

if TYPE_CHECKING:
    from tasks.analysis.comparison import Comparison

REFERENCE = (
    "A pipeline run's name (quickstart-1a2b3c4-1), an MLflow run id or its start, latest, latest~1,"
    " or a model version (quickstart-policy@champion, quickstart-policy/3)"
)
LONGEST_NAME = 150  # characters of the page's file name

RunReferences = Annotated[
    list[str], typer.Argument(metavar="RUN_A RUN_B ...", help=REFERENCE, autocompletion=run_names)
]
Samples = Annotated[
    int,
    typer.Option(min=0, help="Number of prompts with replies to print, from both ends of the list"),
]
Reverse = Annotated[
    bool, typer.Option("--reverse", help="Sort replies by the smallest reward difference first")
]
Attach = Annotated[
    bool, typer.Option("--attach/--no-attach", help="Attach the page to the MLflow runs")
]


def compare(
    references: RunReferences,
    samples: Samples = 4,
    reverse: Reverse = False,
    html: PageFile = None,
    attach: Attach = True,
    as_json: AsJson = False,
) -> None:
    """Compare runs with the first one: settings, metrics, plots and replies.

    Says of every metric if its difference is significant. Prints the comparison (or --json) and
    writes it as one HTML page, which is attached to the runs in MLflow.
    """
    found = compared(*references)
    if reverse:
        found.result.samples.reverse()
    path = write_page(html or _default_page(found.result), found.page())
    problem = found.attach(path) if attach else None
    if as_json:
        print_json(found.as_json() | {"page": str(path)})
    else:
        _print(found.result, samples, path)
    if problem:
        typer.echo(f"rlhf: the page could not be attached to the MLflow runs: {problem}", err=True)


def _default_page(result: "Comparison") -> Path:
    from tasks.records.workspace import Workspace

    name = "-vs-".join(result.names)[:LONGEST_NAME]
    return Workspace.here().home / "reports" / f"{name}.html"


def _print(result: "Comparison", samples: int, path: Path) -> None:
    from flows.report.terminal import comparison_lines

    out = console()
    for part in comparison_lines(result, samples):
        out.print(part)
    print_page_path(path)
