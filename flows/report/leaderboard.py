"""The leaderboard as a terminal table, an HTML page and JSON values."""

from collections.abc import Iterator

from markupsafe import Markup
from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.report.page import badge, cell, code, join, link, page, table
from flows.report.text import counted, interval, text_of
from tasks.analysis.board.ranking import FIRST, LeaderboardRow, RunRanking

COLORS = {FIRST: "green", "not significant": "", "not comparable": "yellow"}
DIGITS = 8  # of a run's id, where the whole id is not needed to name it
KINDS = {FIRST: "good", "not comparable": "warn"}


def leaderboard_parts(ranking: RunRanking, most: int) -> Iterator[Table | Text]:
    """Yield the table of the first `most` rows, the cautions, and what to compare."""
    yield _table(ranking, most)
    for note in notes(ranking, most):
        yield Text(f"note: {note}", style="dim")
    if command := compare_command(ranking):
        yield Text(f"The first two by item: {command}")


def _table(ranking: RunRanking, most: int) -> Table:
    request = ranking.request
    shown = Table(title=title(ranking), title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    shown.add_column("rank", justify="right")
    for key in request.keys:
        shown.add_column(key, no_wrap=True)
    shown.add_column("run", no_wrap=True)
    for name in (request.metric, "95% interval", "sd", "difference"):
        shown.add_column(name, justify="right", no_wrap=True)
    shown.add_column("verdict", overflow="fold")
    for row in ranking.rows[:most]:
        values = [str(row.values[key]) for key in request.keys]
        cells = [str(row.rank), *values, row.name, *_numbers(row)]
        shown.add_row(*map(Text, cells), Text(verdict_text(row), style=COLORS.get(row.verdict, "")))
    return shown


def _numbers(row: LeaderboardRow) -> list[str]:
    found, finding = row.found, row.finding
    difference = "" if row.verdict == FIRST else text_of(finding.difference, signed=True)
    bounds = "" if row.verdict == FIRST else interval(finding.low, finding.high, signed=True)
    return [
        text_of(found.mean),
        interval(found.low, found.high),
        text_of(found.sd),
        f"{difference} {bounds}".strip(),
    ]


def verdict_text(row: LeaderboardRow) -> str:
    """Return the verdict on a row with its corrected p-value, or with why there is none."""
    if row.p_adjusted is not None:
        return f"{row.verdict} (p = {row.p_adjusted:.2g} corrected)"
    note = row.finding.note if row.verdict != FIRST else ""
    return f"{row.verdict}: {note}" if note else row.verdict


def title(ranking: RunRanking) -> str:
    """Return what is ranked, by what."""
    order = "lowest" if ranking.lowest_first else "highest"
    what = counted(len(ranking.rows), "run")
    if ranking.request.keys:
        what = f"{counted(len(ranking.rows), 'group')} by {', '.join(ranking.request.keys)}"
    over = " over seeds" if ranking.request.over_seeds else ""
    return f"{what}{over}, the {order} {ranking.request.metric} first"


def notes(ranking: RunRanking, most: int) -> Iterator[str]:
    """Yield what a reader must know."""
    if len(ranking.rows) > most:
        yield f"{len(ranking.rows) - most} more rows; --limit shows them."
    if ranking.without:
        have, are = ("has", "is") if ranking.without == 1 else ("have", "are")
        runs = counted(ranking.without, "run")
        yield f"{runs} {have} no {ranking.request.metric} and {are} left out."
    if any(row.p_adjusted is not None for row in ranking.rows):
        yield (
            "Verdicts are on the difference from the first row. Of those called significant, at"
            f" most {ranking.request.fdr:.0%} are expected to be false (Benjamini and Hochberg)."
        )
    yield from ranking.cautions


def compare_command(ranking: RunRanking) -> str:
    """Return the command that compares the first two rows by item; '' for a single row."""
    references = [run_id[:DIGITS] for run_id in ranking.references()]
    return f"rlhf compare {' '.join(references)}" if len(ranking.rows) > 1 else ""


def leaderboard_page(ranking: RunRanking, tracking_uri: str) -> str:
    """Return the page; its table sorts by the columns."""
    request = ranking.request
    head = ["rank", *request.keys, "run", request.metric, "sd", "difference", "verdict"]
    numeric = [0, *(len(request.keys) + place for place in (2, 3, 4))]
    rows = [_cells(row, request.keys, tracking_uri) for row in ranking.rows]
    said = join(Markup("<li>{}</li>").format(note) for note in notes(ranking, len(ranking.rows)))
    body = table(head, rows, numeric=numeric, classes="sortable")
    after = [("Notes", Markup("<ul class=note>{}</ul>").format(said))] if said else []
    if command := compare_command(ranking):
        after.append(("Compare the first two", Markup("<p>{}</p>").format(code(command))))
    return page(
        "Leaderboard",
        Markup("<p class=dim>{}</p>").format(title(ranking)),
        [("Rows", body), *after],
    )


def _cells(row: LeaderboardRow, keys: tuple[str, ...], tracking_uri: str) -> list[Markup]:
    value, bounds, deviation, difference = _numbers(row)
    more = [link(run.name, run.link(tracking_uri)) for run in row.runs]
    return [
        cell(row.rank, kind="num", sort=row.rank),
        *(cell(row.values[key]) for key in keys),
        cell(Markup(", ").join(more)),
        cell(value, kind="num", small=bounds, sort=row.found.mean),
        cell(deviation, kind="num", sort=row.found.sd),
        cell(difference, kind="num", sort=row.finding.difference),
        cell(badge(row.verdict, KINDS.get(row.verdict, "")), small=verdict_text(row)),
    ]


def leaderboard_json(ranking: RunRanking, tracking_uri: str) -> dict[str, object]:
    """Return the JSON values that `rlhf leaderboard --json` prints."""
    request = ranking.request
    return {
        "metric": request.metric,
        "order": "lowest" if ranking.lowest_first else "highest",
        "group_by": list(request.keys),
        "over_seeds": request.over_seeds,
        "fdr": request.fdr,
        "rows": [_row_json(row, tracking_uri) for row in ranking.rows],
        "without_metric": ranking.without,
        "cautions": ranking.cautions,
        "compare": compare_command(ranking),
    }


def _row_json(row: LeaderboardRow, tracking_uri: str) -> dict[str, object]:
    found, finding = row.found, row.finding
    return {
        "rank": row.rank,
        "values": row.values,
        "runs": [
            {"name": run.name, "run_id": run.run_id, "mlflow": run.link(tracking_uri)}
            for run in row.runs
        ],
        "value": found.mean,
        "low": found.low,
        "high": found.high,
        "sd": found.sd,
        "seeds": found.seeds,
        "interval_covers": found.covers,
        "difference": finding.difference if row.verdict != FIRST else None,
        "difference_low": finding.low,
        "difference_high": finding.high,
        "p_value": finding.p_value,
        "p_adjusted": row.p_adjusted,
        "verdict": row.verdict,
        "note": finding.note,
    }
