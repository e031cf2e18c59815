"""The findings on a model folder as a table and as JSON values."""

from collections.abc import Iterator
from dataclasses import asdict

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from rlhf_core.inspection.findings import ModelFinding
from tasks.stages.model_report import ModelReport

STYLES = {"ok": "green", "note": "yellow", "refused": "bold red"}


def model_json(report: ModelReport) -> dict[str, object]:
    """Return the report as JSON values."""
    return {
        "model": str(report.folder),
        "recipe": report.recipe,
        "usable": report.usable,
        "reasons": report.reasons,
        "findings": [asdict(one) for one in report.findings],
    }


def model_parts(report: ModelReport) -> Iterator[RenderableType]:
    """Yield the findings as a table, and the verdict."""
    yield findings_table(report.findings, title=str(report.folder))
    yield verdict(report)


def findings_table(findings: tuple[ModelFinding, ...], *, title: str) -> Table:
    """Return one row per finding."""
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    table.add_column("what", no_wrap=True)
    table.add_column("found", overflow="fold")
    for one in findings:
        table.add_row(Text(one.level, style=STYLES[one.level]), one.name, Text(one.found))
    return table


def verdict(report: ModelReport) -> Text:
    """Return whether the pipeline can use the model, in one line."""
    if report.usable:
        by = f" by {report.recipe}" if report.recipe else ""
        return Text(f"The pipeline can use this model{by}.", style="green")
    count = len(report.reasons)
    reasons = "1 reason" if count == 1 else f"{count} reasons"
    return Text(f"The pipeline cannot use this model: {reasons} above, refused.", style="bold red")
