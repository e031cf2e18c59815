"""Parts that the comparison and the end-of-run report share: tables of metrics, gates and
differences, replies side by side.
"""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.charts import thinned
from flows.report.page import badge, cell, code, folded, join, table
from flows.report.text import duration, interval, key_metric, memory, shortened, text_of
from rlhf_core.evidence.item_metrics import is_against_champion
from tasks.analysis.comparison import ReplySample, WinRate
from tasks.analysis.differences import Difference
from tasks.analysis.metric_rows import MetricRow
from tasks.analysis.run_evidence import STAGE_ORDER, Estimate, RunEvidence, StageEvidence
from tasks.analysis.significance import Finding

REPLY_LENGTH = 1500  # characters of a reply or prompt that are shown
VALUE_LENGTH = 300
PINNED = ".txt: "  # in the key of a package of a requirement file
MARKS = {
    "passed": "good",
    "refused": "bad",
    "failed": "bad",
    "overridden": "warn",
    "warning": "warn",
}


def verdict(found: Finding) -> Markup:
    """The finding in one badge."""
    if found.verdict != "beyond noise":
        return badge(found.verdict)
    if found.better is None:
        return badge("beyond noise", "warn")
    return (
        badge("better, beyond noise", "good")
        if found.better
        else badge("worse, beyond noise", "bad")
    )


def detail(found: Finding) -> str:
    """How a finding came about: n, method, what must be said of it."""
    count = f"n = {found.n:,}" if found.n is not None else ""
    return "; ".join(filter(None, [count, found.method, found.note]))


def metric_table(names: list[str], rows: Iterable[MetricRow]) -> Markup:
    """Metrics of runs beside each other; each run after the first with its difference from the
    first.
    """
    findings = (
        ["difference", "verdict"]
        if len(names) == 2
        else [f"{name} less {names[0]}" for name in names[1:]]
    )
    numeric = [*range(1, len(names) + 1), *([len(names) + 1] if len(names) == 2 else [])]
    body = [_metric_cells(row) for row in rows]
    return table(["metric", *names, *findings], body, numeric=numeric) if body else Markup("")


def _metric_cells(row: MetricRow) -> list[Markup]:
    unit = f" ({row.unit})" if row.unit else ""
    cells = [cell(Markup("<b>{}</b>{}").format(row.metric, unit), small=row.meaning)]
    cells += [_estimate(value) for value in row.values]
    for found in row.against:
        difference, bounds = (
            text_of(found.difference, signed=True),
            interval(found.low, found.high, signed=True),
        )
        if len(row.against) == 1:
            cells += [
                cell(difference, kind="num", small=bounds),
                cell(verdict(found), small=detail(found)),
            ]
        else:  # one column a run, so that three or four fit
            cells.append(
                cell(
                    Markup("{} {}").format(difference, verdict(found)),
                    small=f"{bounds} {detail(found)}".strip(),
                )
            )
    return cells


def _estimate(value: Estimate | None) -> Markup:
    return (
        cell(text_of(value.value), kind="num", small=interval(value.low, value.high))
        if value
        else cell("", kind="num")
    )


def tiles(win_rates: Iterable[WinRate]) -> Markup:
    """Who wins how often, one tile a judge."""
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


def gate_table(decisions: Iterable[dict]) -> Markup:
    """Every gate with its evidence."""
    head = ["stage", "gate", "metric", "value", "required", "n", "verdict"]
    rows = [_gate_cells(decision) for decision in decisions]
    return table(head, rows, numeric=[3, 5]) if rows else Markup("")


def _gate_cells(decision: dict) -> list[Markup]:
    override = decision.get("override")
    warning = decision.get("severity") == "warning"
    if override and decision["passed"]:
        mark, note = (
            badge("overridden", "warn"),
            f"to {override['threshold']:g} by {override['by']}: {override['reason']}",
        )
    elif decision["passed"]:
        mark, note = (
            badge("passed", "good"),
            decision["reason"] if decision["value"] is None else "",
        )
    else:
        mark, note = (
            badge("warning", "warn") if warning else badge("refused", "bad"),
            decision["reason"],
        )
    low, high = decision.get("interval") or (None, None)
    nothing = (
        "-" if decision["passed"] else "missing"
    )  # without a champion there is nothing to compare with
    value = nothing if decision["value"] is None else text_of(decision["value"])
    count = "" if decision.get("n") is None else f"{decision['n']:,}"
    required = f"{decision.get('of', 'estimate')} {decision['bound']} {decision['threshold']:g}".removeprefix(
        "estimate "
    )
    return [
        cell(decision["stage"]),
        cell(decision["gate"]),
        cell(code(decision["metric"]), kind="key", small=_baseline(decision)),
        cell(value, kind="num", small=interval(low, high)),
        cell(required, kind="key"),
        cell(count, kind="num"),
        cell(mark, small=note),
    ]


def _baseline(decision: dict) -> str:
    champion = decision.get("versus") and not is_against_champion(decision["metric"])
    return (
        f"minus {decision['minus']}"
        if decision.get("minus")
        else "minus the champion's"
        if champion
        else ""
    )


def difference_tables(names: list[str], groups: dict[str, list[Difference]]) -> Markup:
    """What differs, a table a group; packages that only a requirement file pins are folded away."""
    parts, same = [], []
    for group, rows in groups.items():
        pinned = [row for row in rows if PINNED in row.key]
        shown = [row for row in rows if row not in pinned]
        if not rows:
            same.append(group)
            continue
        parts.append(Markup("<h3>{}</h3>").format(group.capitalize()))
        parts.append(_difference_table(names, shown))
        parts.append(
            folded(
                f"{len(pinned)} packages pinned to other versions", _difference_table(names, pinned)
            )
        )
    if same:
        parts.append(Markup("<p class=dim>The same in all: {}.</p>").format(", ".join(same)))
    return join(parts)


def _difference_table(names: list[str], rows: list[Difference]) -> Markup:
    cells = [
        [cell(code(row.key), kind="key"), *(cell(_value(value)) for value in row.values)]
        for row in rows
    ]
    return table(["", *names], cells) if rows else Markup("")


def _value(value: str | None) -> Markup:
    return (
        Markup("<span class=dim>none</span>")
        if value is None
        else code(shortened(value, VALUE_LENGTH))
    )


def sample_table(names: list[str], samples: list[ReplySample], most: int, scale: str) -> Markup:
    """Replies side by side, sortable; at most `most` prompts, spread over the whole order so that
    both ends are there.
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


def stage_table(runs: list[RunEvidence]) -> Markup:
    """How each stage of each run stands: verdict and time."""
    rows = []
    for stage in STAGE_ORDER:
        found = [run.stages.get(stage) for run in runs]
        if any(found):
            rows.append([cell(stage), *(_stage_cell(one) for one in found)])
    return table(["stage", *(run.name for run in runs)], rows) if rows else Markup("")


def one_run_stages(run: RunEvidence) -> Markup:
    """The stages of one run, a row each: verdict, time, memory, main result."""
    rows = []
    for name in STAGE_ORDER:
        if stage := run.stages.get(name):
            took = "" if "seconds" not in stage.costs else duration(stage.costs["seconds"])
            peak = (
                ""
                if "peak_memory_mib" not in stage.costs
                else memory(stage.costs["peak_memory_mib"])
            )
            result = key_metric(name, stage.result.get("metrics", {}))
            note = "made by an earlier run" if stage.cached else ""
            cells = [
                cell(stage.stage),
                cell(_mark(stage)),
                cell(took, kind="num", small=note),
                cell(peak, kind="num"),
            ]
            rows.append([*cells, cell(result, small=stage.error or "")])
    return (
        table(["stage", "gates", "took", "peak memory", "result"], rows, numeric=[2, 3])
        if rows
        else Markup("")
    )


def _mark(stage: StageEvidence) -> Markup:
    return badge(stage.verdict, MARKS.get(stage.verdict, ""))


def _stage_cell(stage: StageEvidence | None) -> Markup:
    if stage is None:
        return cell(Markup("<span class=dim>not run</span>"))
    seconds = stage.costs.get("seconds")
    took = (
        ""
        if seconds is None
        else duration(seconds) + (" (by an earlier run)" if stage.cached else "")
    )
    return cell(_mark(stage), small=took)
