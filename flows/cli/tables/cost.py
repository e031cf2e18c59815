"""The table of costs."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tasks.analysis.board.costs import CostRow, total

if TYPE_CHECKING:
    from flows.api.costs import Costs


def cost_table(found: "Costs") -> Table:
    """Return a row per group and the total."""
    shown = Table(title=f"Costs by {found.by}", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column(found.by, no_wrap=True)
    heads = ["runs", "hours", "core hours", "GPU hours"]
    heads += [f"cost {found.currency}".strip()] * found.priced
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for row in found.rows:
        shown.add_row(*_cells(row, found.priced))
    if len(found.rows) > 1:
        shown.add_section()
        shown.add_row(*_cells(total(found.rows), found.priced))
    return shown


def _cells(row: CostRow, priced: bool) -> list[str]:
    cells = [row.group, str(row.runs)]
    cells += [f"{value:,.2f}" for value in (row.hours, row.cpu_hours, row.gpu_hours)]
    return [*cells, *([f"{row.money or 0:,.2f}"] * priced)]
