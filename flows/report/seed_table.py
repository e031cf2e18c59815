"""The table of metrics over seeds: mean, standard deviation and interval of each group of runs."""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.comparison_tables import finding_cell, finding_cells
from flows.report.page import cell, table
from flows.report.text import interval, text_of
from tasks.analysis.seed_groups import SeedRow, SeedSpread


def seed_table(names: list[str], rows: Iterable[SeedRow]) -> Markup:
    """Return a table of metrics, a column per group, and the differences from the first group."""
    findings = [f"{name} less {names[0]}" for name in names[1:]]
    numeric = [*range(1, len(names) + 1)]
    if len(names) == 2:
        findings = ["difference", "verdict"]
        numeric.append(3)
    body = [_cells(row) for row in rows]
    return table(["metric", *names, *findings], body, numeric=numeric) if body else Markup("")


def _cells(row: SeedRow) -> list[Markup]:
    unit = f" ({row.unit})" if row.unit else ""
    cells = [cell(Markup("<b>{}</b>{}").format(row.metric, unit), small=row.meaning)]
    for spread in row.spreads:
        value = "" if spread is None else text_of(spread.mean)
        cells.append(cell(value, kind="num", small=spread_text(spread)))
    for found in row.against:
        cells += finding_cells(found) if len(row.against) == 1 else [finding_cell(found)]
    return cells


def spread_text(spread: SeedSpread | None) -> str:
    """Return standard deviation, number of seeds, and the interval with what it covers."""
    if spread is None:
        return ""
    deviation = "" if spread.sd is None else f"sd {text_of(spread.sd)}, "
    seeds = f"{deviation}{spread.seeds} seed{'s' * (spread.seeds > 1)}"
    bounds = interval(spread.low, spread.high)
    return f"{seeds}; {bounds} over {spread.covers}" if bounds else seeds
