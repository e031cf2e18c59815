"""`rlhf label import`: votes in a file become comparisons."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.labels.options import LeastAlpha, OutFile, RealNames, Weigh
from flows.cli.options import AsJson
from flows.cli.output import print_json

VotesFile = Annotated[
    Path,
    typer.Argument(
        metavar="FILE",
        help="Label Studio's JSON export of a Pairwise project, or .csv or .jsonl: a vote per row",
    ),
]
ColumnNames = Annotated[
    list[str] | None,
    typer.Option(
        "--column",
        metavar="NAME=COLUMN",
        help="The file's name of a column, e.g. reply_a=answer1; repeatable",
    ),
]


def label_import(
    file: VotesFile,
    out: OutFile,
    min_alpha: LeastAlpha = None,
    weights: Weigh = "none",
    names: RealNames = False,
    columns: ColumnNames = None,
    as_json: AsJson = False,
) -> None:
    """Turn votes in a file (Label Studio, CSV, JSON Lines) into comparisons.

    A row of CSV or JSON Lines is one vote: prompt, reply_a, reply_b, annotator, choice (a, b, same,
    both_bad or cannot_judge), and strength, comment and at where they are known. Each pair gets the
    choice with the most votes. Pairs without a preference are kept apart.
    """
    from flows.api.labelling import import_labels
    from flows.cli.tables.labels import print_labelled

    data = import_labels(
        file, out, _columns(columns or []), min_alpha=min_alpha, weighting=weights, real_names=names
    )
    if as_json:
        print_json({"out": str(out), "comparisons": len(data.comparisons)} | data.report.as_json())
    else:
        print_labelled(data, out)


def _columns(given: list[str]) -> dict[str, str]:
    from rlhf_core.errors import BadInput

    found = {}
    for text in given:
        name, sign, column = text.partition("=")
        if not (name and sign and column):
            raise BadInput(
                f"--column is {text!r}; expected NAME=COLUMN, e.g. --column reply_a=answer1."
            )
        found[name] = column
    return found
