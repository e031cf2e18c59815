"""Tables that compare models or runs: metrics, win rates, differences, replies side by side."""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.charts import thinned
from flows.report.page import badge, cell, code, folded, join, table
from flows.report.text import interval, shortened, text_of
from tasks.analysis.comparison import ReplySample, WinRate
from tasks.analysis.differences import Difference
from tasks.analysis.metric_rows import MetricRow
from tasks.analysis.run_evidence import Estimate
from tasks.analysis.significance import Finding

REPLY_LENGTH = 1500  # characters of a reply or prompt that are shown
VALUE_LENGTH = 300
PINNED = ".txt: "  # in the key of a package of a requirement file


def verdict(found: Finding) -> Markup:
    """Return the verdict of a finding as a badge."""
    if found.verdict != "significant":
        return badge(found.verdict)
    if found.better is None:
        return badge("significant", "warn")
    return (
        badge("better, significant", "good") if found.better else badge("worse, significant", "bad")
    )


def detail(found: Finding) -> str:
    """Return how a finding was made: number of items, method, p-values, note."""
    return "; ".join(filter(None, [found.sample, found.method, found.probability, found.note]))


def metric_table(names: list[str], rows: Iterable[MetricRow]) -> Markup:
    """Return a table of metrics, a column per run, and the differences from the first run."""
    findings = [f"{name} less {names[0]}" for name in names[1:]]
    numeric = [*range(1, len(names) + 1)]
    if len(names) == 2:
        findings = ["difference", "verdict"]
        numeric.append(3)
    body = [_metric_cells(row) for row in rows]
    return table(["metric", *names, *findings], body, numeric=numeric) if body else Markup("")


def _metric_cells(row: MetricRow) -> list[Markup]:
    unit = f" ({row.unit})" if row.unit else ""
    cells = [cell(Markup("<b>{}</b>{}").format(row.metric, unit), small=row.meaning)]
    cells += [_estimate(value) for value in row.values]
    for found in row.against:
        cells += finding_cells(found) if len(row.against) == 1 else [finding_cell(found)]
    return cells


def finding_cells(found: Finding) -> list[Markup]:
    """Return a finding in two cells: the difference, and the verdict."""
    difference = text_of(found.difference, signed=True)
    bounds = interval(found.low, found.high, signed=True)
    return [cell(difference, kind="num", small=bounds), cell(verdict(found), small=detail(found))]


def finding_cell(found: Finding) -> Markup:
    """Return a finding in one cell, so that three or four runs fit on the page."""
    difference = text_of(found.difference, signed=True)
    bounds = interval(found.low, found.high, signed=True)
    content = Markup("{} {}").format(difference, verdict(found))
    return cell(content, small=f"{bounds} {detail(found)}".strip())


def _estimate(value: Estimate | None) -> Markup:
    if value is None:
        return cell("", kind="num")
    return cell(text_of(value.value), kind="num", small=interval(value.low, value.high))


def tiles(win_rates: Iterable[WinRate]) -> Markup:
    """Return the win rates as tiles, one per judge."""
    whole = Markup(
        "<div class=tile>{} wins over {}<b>{}</b><div class=note>{}of prompts, by the"
        " {}</div>{}<div class=note>{}</div></div>"
    )
    parts = []
    for win_rate in win_rates:
        found = win_rate.finding
        rate = "" if found.difference is None else f"{found.difference:.1%}"
        bounds = (
            f"95% interval {found.low:.1%} to {found.high:.1%} " if found.low is not None else ""
        )
        parts.append(
            whole.format(
                win_rate.run,
                win_rate.over,
                rate,
                bounds,
                win_rate.judge,
                verdict(found),
                detail(found),
            )
        )
    return Markup("<div class=tiles>{}</div>").format(join(parts)) if parts else Markup("")


def difference_tables(names: list[str], groups: dict[str, list[Difference]]) -> Markup:
    """Return a table of differences per group.

    Packages that only a requirement file pins are folded away.
    """
    parts = [_group(names, group, rows) for group, rows in groups.items() if rows]
    if same := [group for group, rows in groups.items() if not rows]:
        parts.append(Markup("<p class=dim>The same in all: {}.</p>").format(", ".join(same)))
    return join(parts)


def _group(names: list[str], group: str, rows: list[Difference]) -> Markup:
    pinned = [row for row in rows if PINNED in row.key]
    shown = [row for row in rows if row not in pinned]
    title = Markup("<h3>{}</h3>").format(group.capitalize())
    summary = f"{len(pinned)} packages pinned to other versions"
    rest = folded(summary, _difference_table(names, pinned))
    return title + _difference_table(names, shown) + rest


def _difference_table(names: list[str], rows: list[Difference]) -> Markup:
    cells = [
        [cell(code(row.key), kind="key"), *(cell(_value(value)) for value in row.values)]
        for row in rows
    ]
    return table(["", *names], cells) if rows else Markup("")


def _value(value: str | None) -> Markup:
    if value is None:
        return Markup("<span class=dim>none</span>")
    return code(shortened(value, VALUE_LENGTH))


def sample_table(names: list[str], samples: list[ReplySample], most: int, scale: str) -> Markup:
    """Return a sortable table of replies side by side.

    At most `most` prompts are shown, evenly spaced over the order so that both ends are there.
    scale: the scale of the scores.
    """
    shown = thinned(samples, most) if most > 1 else samples[:most]
    if not shown:
        return Markup("")
    head = ["prompt", *(part for name in names for part in (name, "score")), "difference"]
    numeric = [*range(2, len(head), 2), len(head) - 1]
    rest = (
        ""
        if len(shown) == len(samples)
        else f" {len(shown):,} of {len(samples):,} are shown, evenly over that order."
    )
    note = Markup(
        "<p class=note>Sorted by difference (second minus first), the largest first. Scores:"
        " {}.{}</p>"
    )
    return note.format(scale, rest) + table(
        head, map(_sample_cells, shown), numeric=numeric, classes="sortable samples"
    )


def _sample_cells(sample: ReplySample) -> list[Markup]:
    cells = [_reply(sample.prompt)]
    for reply, score, tokens in zip(sample.replies, sample.scores, sample.tokens, strict=True):
        count = "" if tokens is None else f"{tokens} tokens"
        cells += [_reply(reply), cell(text_of(score), kind="num", small=count, sort=score)]
    return [
        *cells,
        cell(text_of(sample.difference, signed=True), kind="num", sort=sample.difference),
    ]


def _reply(text: str) -> Markup:
    return cell(Markup("<div class=reply>{}</div>").format(shortened(text, REPLY_LENGTH)))
