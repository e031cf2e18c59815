"""The comparison of a sweep's settings as tables: spread over seeds, differences from the first."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.report.text import interval, short_name, text_of
from tasks.analysis.comparison import TOGETHER
from tasks.sweeps.sweep import Sweep, SweepFinding, SweepSpread


def finding_lines(sweep: Sweep) -> Iterator[Table | Text]:
    """Yield the spread over seeds, where there are several, and the differences with verdicts."""
    if sweep.spreads:
        yield _table(
            "Over seeds: mean (standard deviation, seeds) [95% interval]",
            sweep,
            {(one.setting, one.metric): _spread_text(one) for one in sweep.spreads},
        )
    if not sweep.findings:
        return
    baseline, tested = (
        sweep.findings[0].baseline,
        [f for f in sweep.findings if f.p_adjusted is not None],
    )
    yield _table(
        f"Difference from {baseline}",
        sweep,
        {(one.setting, one.metric): _finding_text(one) for one in sweep.findings},
    )
    if tested:
        covered = " or ".join(sorted({found.covers for found in tested}))
        yield Text(f"Intervals cover the {covered} drawn. {TOGETHER}")


def _table(title: str, sweep: Sweep, texts: dict[tuple[str, str], str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for metric in sweep.metrics:
        table.add_column(short_name(metric), overflow="fold")
    for setting in dict.fromkeys(setting for setting, _ in texts):
        table.add_row(setting, *(Text(texts.get((setting, m), "-")) for m in sweep.metrics))
    return table


def _spread_text(one: SweepSpread) -> str:
    deviation = "" if one.sd is None else f"sd {text_of(one.sd)}, "
    bounds = interval(one.low, one.high)
    covered = f" {bounds} over {one.covers}" if bounds else ""
    return f"{text_of(one.mean)} ({deviation}{one.seeds} seeds){covered}"


def _finding_text(one: SweepFinding) -> str:
    if one.difference is None:
        return one.note or one.verdict
    bounds = interval(one.low, one.high, signed=True)
    side = {True: "better, ", False: "worse, ", None: ""}[one.better]
    p = "" if one.p_adjusted is None else f" (p = {one.p_adjusted:.2g} corrected)"
    return f"{text_of(one.difference, signed=True)} {bounds} {side}{one.verdict}{p}"
