"""The table of costs."""

from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.table import Table

from tasks.analysis.board.costs import CostRow, total

if TYPE_CHECKING:
    from flows.api.costs import Costs

ENERGIES = {"gpu_kwh": "GPU kWh", "cpu_kwh": "core kWh"}  # attribute of a row: head of its column


def cost_table(found: "Costs") -> Table:
    """Return a row per group and the total."""
    shown = Table(title=f"Costs by {found.by}", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column(found.by, no_wrap=True)
    heads = ["runs", "hours", "core hours", "GPU hours"]
    energies = [
        name for name in ENERGIES if any(getattr(row, name) is not None for row in found.rows)
    ]
    heads += [ENERGIES[name] for name in energies]
    heads += [f"cost {found.currency}".strip()] * found.priced
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    for row in found.rows:
        shown.add_row(*_cells(row, energies, found.priced))
    if len(found.rows) > 1:
        shown.add_section()
        shown.add_row(*_cells(total(found.rows), energies, found.priced))
    return shown


def energy_note(found: "Costs") -> str:
    """Return which energy no run has measured, in a sentence; '' where each kind was measured."""
    words = {"gpu_kwh": "GPUs", "cpu_kwh": "processors"}
    missing = [words[name] for name in ENERGIES if not _is_measured(found, name)]
    return f"Energy of {' and '.join(missing)}: not measured." if missing else ""


def _is_measured(found: "Costs", name: str) -> bool:
    return any(getattr(row, name) is not None for row in found.rows)


def _cells(row: CostRow, energies: list[str], priced: bool) -> list[str]:
    cells = [row.group, str(row.runs)]
    cells += [f"{value:,.2f}" for value in (row.hours, row.cpu_hours, row.gpu_hours)]
    for name in energies:
        value = getattr(row, name)
        cells.append("not measured" if value is None else f"{value:,.3f}")
    return [*cells, *([f"{row.money or 0:,.2f}"] * priced)]
