"""The end of a run, as the command line prints it."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.display.data_report import report_findings, report_table
from flows.progress.live_row import verdict_of
from flows.report.text import duration, key_metric
from rlhf_core.errors import GateRefused, RLHFError
from tasks.records.run_record import Record
from tasks.records.step_row import StepRow
from tasks.run_result import PipelineResult

STYLES = {"refused": "red", "failed": "red"}


@dataclass(frozen=True)
class RunOutcome:
    """The end of a run, also of one that ended with an error."""

    rows: list[StepRow]
    result: PipelineResult | None = None  # of a run that finished
    error: RLHFError | None = None
    report: dict | None = None  # the data report: {"columns": [...], "data": [[...], ...]}
    told: set[str] = field(default_factory=set)  # failures that the display has shown in full
    page: Path | None = None  # the run's HTML report
    record: Record | None = None  # None for a run that was refused before it began

    @property
    def state(self) -> str:
        """The state of the run: finished, refused (by a gate) or failed."""
        if self.error is None:
            return "finished"
        return "refused" if isinstance(self.error, GateRefused) else "failed"

    def as_json(self) -> dict:
        """Return what `--json` prints."""
        result = self.result
        promotion = result.promotion if result else None
        values = {
            "state": self.state,
            "exit_code": self.error.exit_code if self.error else 0,
            "error": str(self.error) if self.error else None,
            "error_code": (self.error.code or None) if self.error else None,
            "stages": [_row_json(row) for row in self.rows],
            "promotion": (
                {name: getattr(promotion, name) for name in ("promoted", "reason", "version")}
                if promotion
                else None
            ),
            "name": result.name if result else None,
            "run_id": result.parent_run_id if result else None,
            "mlflow": result.parent_link if result else None,
            "mlflow_problem": result.problem if result else None,
            "report_page": str(self.page) if self.page else None,
        }
        return values | ({"report": self.report} if self.report else {})

    def tables(self, *, full_links: bool) -> Iterator[RenderableType]:
        """Yield what is printed at the end: data report if asked for, stages, promotion, links."""
        result = self.result
        if self.report:
            yield report_table(self.report)
            yield from report_findings(self.report)
        if self.rows:
            yield results_table(self.rows, full_links=full_links)
        if result and result.promotion:
            word = "[green]promoted[/]" if result.promotion.promoted else "[yellow]not promoted[/]"
            yield f"Promotion: {word}: {escape(result.promotion.reason)}"
        if result and result.parent_link:
            yield Text(f"MLflow: {result.parent_link}", overflow="fold")
        if self.page:
            yield Text(f"Report: {self.page}", overflow="fold")
        if result and result.problem:
            yield Text(
                f"MLflow has not all of it yet ({result.problem}); rlhf sync forwards the rest.",
                style="yellow",
            )


def results_table(rows: list[StepRow], *, full_links: bool) -> Table:
    """Return the steps of a run: duration, headline metric, gate verdict, MLflow link.

    full_links: write the link out; otherwise it is behind the run's short id.
    """
    table = Table(title="Stages", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("stage", no_wrap=True)
    table.add_column("took", justify="right", no_wrap=True)
    table.add_column("result", no_wrap=True)
    table.add_column("gate", overflow="fold")
    table.add_column("MLflow", no_wrap=True)
    for row in rows:
        table.add_row(
            row.name,
            duration(row.seconds) + (" (earlier)" if row.state == "cached" else ""),
            Text(key_metric(row.name, row.metrics)),
            Text(verdict_of(row.decisions) or row.note or row.error.split("\n")[0]),
            _link(row.link, full_links),
            style=STYLES.get(row.state),
        )
    return table


def _link(link: str | None, full: bool) -> Text:
    if not link:
        return Text("-")
    return Text(link) if full else Text(link.rsplit("/", 1)[-1][:8], style=f"link {link}")


def _row_json(row: StepRow) -> dict:
    return {
        "stage": row.name,
        "state": row.state,
        "seconds": row.seconds,
        "cached": row.cached,
        "metric": row.metric,
        "value": row.value,
        "verdict": verdict_of(row.decisions) or row.note or None,
        "gates": [
            decision.model_dump(mode="json") | {"verdict": decision.verdict}
            for decision in row.decisions
        ],
        "error": row.error or None,
        "mlflow": row.link,
        "run_dir": str(row.run_dir) if row.run_dir else None,
    }
