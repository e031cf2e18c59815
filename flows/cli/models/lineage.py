"""`rlhf lineage`: from a model to its data, and from data to the models that saw it."""

from typing import Annotated

import typer

from flows.api.comparisons import lineage as traced
from flows.cli.options import AsJson, run_names
from flows.cli.output import console, print_json

Reference = Annotated[
    str,
    typer.Argument(
        metavar="MODEL@ALIAS|DIGEST|FILE|RUN",
        help=(
            "A model version (quickstart-policy@champion) or run: show what it was made from. A"
            " data digest (6 digits or more) or a data file: show every model that saw it"
        ),
        autocompletion=run_names,
    ),
]


def lineage(reference: Reference, as_json: AsJson = False) -> None:
    """Trace a model back to its data, or data to every model that saw it."""
    found = traced(reference)
    if as_json:
        from tasks.analysis.lineage import as_json as lineage_json

        print_json(lineage_json(found))
        return
    from flows.report.terminal import lineage_tree, saw_table

    out = console()
    out.print(lineage_tree(found))
    if found.saw is not None:
        out.print(saw_table(found))
