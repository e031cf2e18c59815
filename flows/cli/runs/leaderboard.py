"""`rlhf leaderboard`: runs ranked by a metric, with intervals."""

from pathlib import Path
from typing import Annotated

import typer

from flows.api.leaderboards import Order
from flows.api.leaderboards import leaderboard as board
from flows.cli.options import AsJson, Filters, metric_names
from flows.cli.output import console, print_json, print_page_path, print_parts, write_page

RankBy = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", autocompletion=metric_names, help="Rank by this (default: eval/win_rate)"
    ),
]
GroupBy = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY",
        help=(
            "One row per value of this recipe key: its best run, or with --over-seeds the mean;"
            " repeatable"
        ),
    ),
]
OverSeeds = Annotated[
    bool,
    typer.Option(
        "--over-seeds", help="Runs that differ in the seed are one row, with mean and spread"
    ),
]
FalseDiscoveryRate = Annotated[
    float,
    typer.Option(
        metavar="SHARE",
        help="Share of false ones expected among the differences called significant",
    ),
]
SortOrder = Annotated[
    Order | None, typer.Option(help="Which side is first (default: the better one)")
]
ShownRanks = Annotated[int, typer.Option(min=1, help="Number of rows to print; pages have all")]
BoardPage = Annotated[
    Path | None, typer.Option("--html", metavar="FILE", help="Also write one HTML page there")
]


def leaderboard(
    filters: Filters = None,
    metric: RankBy = None,
    group_by: GroupBy = None,
    over_seeds: OverSeeds = False,
    fdr: FalseDiscoveryRate = 0.05,
    order: SortOrder = None,
    limit: ShownRanks = 20,
    html: BoardPage = None,
    as_json: AsJson = False,
) -> None:
    """Rank runs by a metric, with intervals, each compared with the first one.

    They are the pipeline runs in MLflow. Of the differences called significant, at most the share
    --fdr is expected to be false. Prints the command that compares the first two rows by item.
    """
    from flows.report.leaderboard import leaderboard_parts

    found = board(
        *(filters or []),
        metric=metric,
        group_by=group_by or (),
        over_seeds=over_seeds,
        fdr=fdr,
        order=order,
    )
    path = write_page(html, found.page()) if html else None
    if as_json:
        print_json(found.as_json() | ({"page": str(path)} if path else {}))
        return
    if found.ranking.rows:
        print_parts(console(), leaderboard_parts(found.ranking, limit))
    else:
        print(f"No run has {found.ranking.request.metric}.")
    if path:
        print_page_path(path)
