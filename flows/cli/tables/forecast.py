"""The forecast of a run's time and money as a table, sentences and JSON values."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tasks.execution.usage import Usage
from tasks.spending.earlier_runs import StageForecast

HEADS = ("hours", "core hours", "GPU hours")


def forecast_json(found: Sequence[StageForecast] | None) -> list[dict] | None:
    """Return the forecast of each stage; None where there can be none."""
    return None if found is None else [asdict(one) for one in found]


def forecast_parts(
    found: Sequence[StageForecast] | None, currency: str
) -> Iterator[RenderableType]:
    """Yield what the stages will take, and what says so; a sentence where nothing does.

    found: None where the plan is for other devices or models than this machine has run.
    """
    if found is None:
        yield Text(
            "No forecast of time: it comes from runs on this machine, and the options above ask for"
            " other devices or models."
        )
        return
    known = [one for one in found if one.usage]
    if not known:
        yield Text("No forecast of time: this machine has finished no stage with the same work.")
        return
    yield _table(found, currency)
    yield Text(
        "By finished stages with the same work on this machine: the median one of the latest five."
    )
    if missing := [one.stage for one in found if not one.usage]:
        yield Text(f"Without {', '.join(missing)}, which this machine has not finished yet.")


def _table(found: Sequence[StageForecast], currency: str) -> Table:
    priced = any(one.money is not None for one in found)
    heads = [*HEADS, *([f"cost {currency}".strip()] if priced else [])]
    shown = Table(title="Forecast", title_justify="left", box=SIMPLE_HEAD)
    shown.add_column("stage", no_wrap=True)
    for head in heads:
        shown.add_column(head, justify="right", no_wrap=True)
    shown.add_column("from")
    for one in found:
        if one.usage:
            runs = f"{one.runs} runs, latest " if one.runs > 1 else ""
            shown.add_row(one.stage, *_cells(one.usage, one.money, priced), f"{runs}{one.latest}")
        else:
            shown.add_row(one.stage, *["unknown"] * len(heads), "no run")
    total = sum((one.usage for one in found if one.usage), Usage())
    money = sum(one.money or 0.0 for one in found)
    shown.add_section()
    shown.add_row("total", *_cells(total, money, priced), "")
    return shown


def _cells(usage: Usage, money: float | None, priced: bool) -> list[str]:
    cells = [usage.hours, usage.cpu_hours, usage.gpu_hours or 0.0]
    return [f"{value:,.2f}" for value in [*cells, *([money or 0.0] if priced else [])]]
