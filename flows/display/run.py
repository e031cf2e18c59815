"""A run as the command line starts it: libraries kept quiet, the display listening, every end
turned into an outcome.
"""

import contextlib
import json
import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, RenderableType
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from flows.display.live import LiveDisplay
from flows.display.stage_view import StageView, results_table, verdict_of
from flows.platform.pages import NO_ACCOUNT, answers, refuses_account
from flows.report.text import key_metric_of
from flows.settings import quiet_libraries
from rlhf_core.config import load_recipe
from rlhf_core.errors import GateRefused, RLHFError
from tasks.records import events

REPORT = "report_table"


@dataclass(frozen=True)
class Outcome:
    """What a run left behind, also when it ended with an error."""

    views: list[StageView]
    result: Any = None  # flows.pipeline.PipelineResult
    error: RLHFError | None = None
    report: dict | None = None  # {"columns": [...], "data": [[...], ...]}
    told: set[str] = field(default_factory=set)  # failures that the display has shown in full
    page: Path | None = None  # the run's HTML report

    @property
    def state(self) -> str:
        """finished, refused (by a gate) or failed."""
        if self.error is None:
            return "finished"
        return "refused" if isinstance(self.error, GateRefused) else "failed"

    def as_json(self) -> dict:
        """What `--json` prints."""
        values = {
            "state": self.state,
            "exit_code": self.error.exit_code if self.error else 0,
            "error": str(self.error) if self.error else None,
            "stages": [_stage_json(view) for view in self.views],
            "promotion": _promotion_json(self.result),
            "name": getattr(self.result, "name", None),
            "run_id": getattr(self.result, "parent_run_id", None),
            "mlflow": getattr(self.result, "parent_link", None),
            "mlflow_problem": getattr(self.result, "problem", None),
            "report_page": str(self.page) if self.page else None,
        }
        return values | ({"report": self.report} if self.report else {})

    def tables(self, *, full_links: bool) -> Iterator[RenderableType]:
        """What is printed at the end: the data report when asked for, the stages, the promotion,
        the link.
        """
        if self.report:
            yield report_table(self.report)
            yield from report_findings(self.report)
        if self.views:
            yield results_table(self.views, full_links=full_links)
        if promotion := getattr(self.result, "promotion", None):
            word = "[green]promoted[/]" if promotion.promoted else "[yellow]not promoted[/]"
            yield f"Promotion: {word}: {escape(promotion.reason)}"
        if link := getattr(self.result, "parent_link", None):
            yield Text(f"MLflow: {link}", overflow="fold")
        if self.page:
            yield Text(f"Report: {self.page}", overflow="fold")
        if problem := getattr(self.result, "problem", None):
            yield Text(
                f"MLflow has not all of it yet ({problem}); rlhf sync forwards the rest.",
                style="yellow",
            )


def run_recipe(
    name: str,
    settings: list[str],
    span: tuple[str | None, str | None],
    *,
    with_report: bool = False,
) -> Outcome:
    """Run the recipe's stages from span[0] to span[1] with the display on standard error.

    Raises ConfigError for what is wrong before anything runs; later errors are in the outcome.
    """
    recipe = load_recipe(name, settings)
    quiet_libraries()
    display = LiveDisplay(Console(stderr=True))
    end = events.subscribe(display)
    result, error = None, None
    try:
        with _ending_at_ctrl_c(), contextlib.redirect_stdout(sys.stderr), display:
            result = _pipeline()(recipe, from_stage=span[0], until=span[1])
    except RLHFError as raised:
        error = raised
    except Exception as raised:
        _blame_prefect_server(raised)
        raise
    except BaseException:  # Ctrl-C, SIGTERM: the stage's process group is ended by now
        print("stopped; the same command goes on where this run was", file=sys.stderr)
        raise
    finally:
        end()
    views = list(display.views.values())
    return Outcome(
        views,
        result,
        error,
        _report_of(views) if with_report else None,
        display.told,
        display.report,
    )


@contextlib.contextmanager
def _ending_at_ctrl_c() -> Iterator[None]:
    """Let Ctrl-C end in a KeyboardInterrupt: the terminal ends Prefect's own server too, and
    Prefect then fails to reach it.
    """
    pressed = []

    def note(*_: object) -> None:
        pressed.append(True)
        logging.raiseExceptions = (
            False  # Prefect's log handler complains to standard error otherwise
        )
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    # Prefect raises SIGTERM once more when it has cleaned up; without a handler its own server
    # would outlive this process.
    before_term = signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except Exception as error:
        if pressed:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        signal.signal(signal.SIGTERM, before_term)


def _pipeline() -> Callable:
    from flows.pipeline import run_pipeline

    return run_pipeline


def _blame_prefect_server(error: Exception) -> None:
    url = os.environ.get("PREFECT_API_URL")
    if refuses_account(error):
        raise RLHFError(NO_ACCOUNT.format(url=url)) from error
    if url and not answers(url.rstrip("/") + "/health"):
        raise RLHFError(
            f"the Prefect server at PREFECT_API_URL={url} does not answer ({type(error).__name__});"
            " start it, or unset PREFECT_API_URL to run without one"
        ) from error


def _report_of(views: list[StageView]) -> dict | None:
    """The table that the validate stage left, also when it refused the data."""
    folder = next((view.run_dir for view in views if view.stage == "validate"), None)
    if folder is None:
        return None
    result = folder / "result.json"
    name = json.loads(result.read_text())["files"].get(REPORT) if result.exists() else None
    file = folder / name if name else next(iter(sorted(folder.rglob("*report*.table.json"))), None)
    return json.loads(Path(file).read_text()) if file and Path(file).exists() else None


def report_table(report: dict) -> Table:
    """The data report, a line a rule."""
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
    """A sentence for each rule that did not pass."""
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


def _stage_json(view: StageView) -> dict:
    name = key_metric_of(view.stage, view.metrics)
    return {
        "stage": view.stage,
        "state": view.state,
        "seconds": view.seconds,
        "cached": view.state == "cached",
        "metric": name,
        "value": view.metrics.get(name) if name else None,
        "verdict": verdict_of(view.decisions) or view.note or None,
        "gates": [
            decision.model_dump(mode="json") | {"verdict": decision.verdict}
            for decision in view.decisions
        ],
        "error": view.failure or None,
        "mlflow": view.link,
        "run_dir": str(view.run_dir) if view.run_dir else None,
    }


def _promotion_json(result: Any) -> dict | None:
    promotion = getattr(result, "promotion", None)
    if promotion is None:
        return None
    return {name: getattr(promotion, name) for name in ("promoted", "reason", "version")}
