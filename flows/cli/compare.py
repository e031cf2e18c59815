"""`rlhf compare` and `rlhf lineage`."""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.output import console
from rlhf_core.errors import ConfigError, RLHFError

REFERENCE = (
    "A pipeline run's name (quickstart-1a2b3c4-1), an MLflow run id or its start, latest, latest~1,"
    " or a model version (quickstart-policy@champion, quickstart-policy/3)"
)
FOLDER = "comparisons"  # of a run's artifacts


def _runs(incomplete: str) -> list[str]:
    """Names of this workspace's runs, for shell completion."""
    from tasks.records.run_record import records
    from tasks.records.workspace import Workspace

    names = [
        "latest",
        *dict.fromkeys(record["name"] for record in reversed(records(Workspace.here()))),
    ]
    return [name for name in names if name.startswith(incomplete)]


AsJson = Annotated[bool, typer.Option("--json", help="Print the result as JSON on standard output")]


def compare(
    references: Annotated[
        list[str], typer.Argument(metavar="RUN_A RUN_B ...", help=REFERENCE, autocompletion=_runs)
    ],
    samples: Annotated[
        int, typer.Option(min=0, help="How many prompts with replies to print, from both ends")
    ] = 4,
    reverse: Annotated[
        bool, typer.Option("--reverse", help="Sort replies by the smallest reward difference first")
    ] = False,
    html: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Where the page goes [default: the workspace]"),
    ] = None,
    attach: Annotated[
        bool, typer.Option("--attach/--no-attach", help="Attach the page to the MLflow runs")
    ] = True,
    as_json: AsJson = False,
) -> None:
    """Hold runs against the first one: what differs, metrics beyond noise or not, plots, replies
    side by side.

    Prints the comparison (or --json) and writes it as one HTML page, which is attached to the runs
    in MLflow.
    """
    from flows.report.comparison import comparison_page
    from tasks.analysis import comparison as comparing
    from tasks.analysis import mlflow_runs

    client = _client()
    found = _distinct(
        [mlflow_runs.resolve(client, reference) for reference in references], references
    )
    result = comparing.compare([mlflow_runs.read(client, run) for run in found])
    if reverse:
        result.samples.reverse()
    path = _written(html, "-vs-".join(result.names), comparison_page(result))
    problem = (
        mlflow_runs.attach(client, [run.info.run_id for run in found], path, FOLDER)
        if attach
        else None
    )
    if as_json:
        print(json.dumps(comparing.as_json(result) | {"page": str(path)}, indent=2))
    else:
        _print_comparison(result, samples, path)
    if problem:
        typer.echo(f"rlhf: the page could not be attached to the MLflow runs: {problem}", err=True)


def lineage(
    reference: Annotated[
        str,
        typer.Argument(
            metavar="MODEL@ALIAS|DIGEST|FILE|RUN",
            help=(
                "A model version (quickstart-policy@champion) or run: what it was made from. A data"
                " digest (6 digits or "
                "more) or a data file: every model that saw it"
            ),
            autocompletion=_runs,
        ),
    ],
    as_json: AsJson = False,
) -> None:
    """Lineage both ways: from a model back to its data, or from data to every model that saw it."""
    from tasks.analysis.lineage import as_json as values
    from tasks.analysis.lineage import lineage as trace

    found = trace(_client(), reference)
    if as_json:
        print(json.dumps(values(found), indent=2))
        return
    from flows.report.terminal import lineage_tree, saw_table

    out = console()
    out.print(lineage_tree(found))
    if found.saw is not None:
        out.print(saw_table(found))


def _distinct(found: list, references: list[str]) -> list:
    if len(found) < 2:
        raise ConfigError(
            f"rlhf compare needs two runs or more, found {' '.join(references)}. Add the one to"
            " compare with."
        )
    ids = [run.info.run_id for run in found]
    for place, run_id in enumerate(ids):
        if run_id in ids[:place]:
            first, second = references[ids.index(run_id)], references[place]
            raise ConfigError(
                f"{first} and {second} are the same run, {found[place].info.run_name}; expected two"
                " different ones."
            )
    return found


def _client():
    from flows.display.run import quiet_libraries

    quiet_libraries()
    from tasks.records.workspace import Workspace
    from tasks.tracking.client import brief, client_for

    uri = Workspace.here().tracking_uri
    try:
        client = client_for(uri)
        client.search_experiments(max_results=1)
    except Exception as error:
        raise RLHFError(
            f"MLflow at {uri} does not answer ({brief(error)}). Start it, or unset"
            " MLFLOW_TRACKING_URI."
        ) from error
    return client


def _written(path: Path | None, name: str, text: str) -> Path:
    from tasks.records.workspace import Workspace

    if path is None:
        path = Workspace.here().home / "reports" / f"{name[:150]}.html"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def _print_comparison(result, samples: int, path: Path) -> None:
    from flows.report.terminal import comparison_lines

    out = console()
    for part in comparison_lines(result, samples):
        out.print(part)
    out.print(f"Page: {path}", soft_wrap=True, markup=False, highlight=False)
