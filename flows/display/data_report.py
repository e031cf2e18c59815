"""The data report of the validate stage in the terminal."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from rlhf_core.stage_catalogue import VALIDATE
from tasks.records.step_row import StepRow

REPORT = "report_table"


def report_of(rows: Iterable[StepRow]) -> dict | None:
    """Return the table that the validate stage left, also when it refused the data."""
    folder = next((row.run_dir for row in rows if row.name == VALIDATE.name), None)
    if folder is None:
        return None
    result = folder / "result.json"
    name = (
        json.loads(result.read_text(encoding="utf-8"))["files"].get(REPORT)
        if result.exists()
        else None
    )
    file = folder / name if name else next(iter(sorted(folder.rglob("*report*.table.json"))), None)
    return (
        json.loads(Path(file).read_text(encoding="utf-8")) if file and Path(file).exists() else None
    )


def report_table(report: dict) -> Table:
    """Return the data report, one row per rule."""
    table = Table(title="Data report", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("", "rule", "source", "found"):
        table.add_column(column, no_wrap=True)
    table.add_column("expected", overflow="fold")
    for row in _rows(report):
        mark = row.get("severity", "error") if row.get("passed") is False else "ok"
        cells = [_cell(row.get(name)) for name in ("rule", "source", "found", "expected")]
        table.add_row(mark, *cells, style={"error": "red", "warning": "yellow"}.get(mark))
    return table


def report_findings(report: dict) -> Iterator[Text]:
    """Yield a sentence for each rule that did not pass."""
    for row in _rows(report):
        if row.get("passed") is False:
            text = (
                f"{row.get('severity')}: {row.get('rule')} ({row.get('source')}):"
                f" {row.get('detail')}"
            )
            yield Text(text, style="red" if row.get("severity") == "error" else "yellow")


def _rows(report: dict) -> list[dict]:
    return [dict(zip(report["columns"], values, strict=True)) for values in report["data"]]


def _cell(value: object) -> Text:
    return Text("" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value))
