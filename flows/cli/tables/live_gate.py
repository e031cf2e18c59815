"""The verdict of the live gate as a table."""

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rlhf_core.live.verdict import LiveMeasure, LiveVerdict

STYLES = {"worse": "red", "open": "yellow", "unknown": "yellow"}
FAR = 1e6  # beyond it a bound is not known


def verdict_table(verdict: LiveVerdict) -> Table:
    """Return one row per measure: both versions, the bounds of the difference, the limit."""
    title = f"Live gate: version {verdict.candidate} beside the champion, version"
    table = Table(
        title=f"{title} {verdict.champion}; look {verdict.look}, level {verdict.level:.4f}",
        title_justify="left",
        box=SIMPLE_HEAD,
        pad_edge=False,
    )
    table.add_column("measure", no_wrap=True)
    for column in ("champion", "n", "candidate", "n", "difference", "allowed"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("finding", no_wrap=True)
    for each in verdict.measures:
        cells = (
            each.name,
            f"{each.champion:.3f}",
            str(each.champion_n),
            f"{each.candidate:.3f}",
            str(each.candidate_n),
            _bounds(each),
            f"{each.limit:.3f}",
        )
        table.add_row(*map(Text, cells), Text(each.finding, style=STYLES.get(each.finding, "")))
    return table


def _bounds(found: LiveMeasure) -> str:
    if found.upper > FAR:
        return "-"
    return f"{found.lower:+.3f} to {found.upper:+.3f}"
