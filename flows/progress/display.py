"""The live display of a pipeline: a line per stage in a terminal, plain lines elsewhere."""

import threading
import time
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from flows.progress.live_row import (
    LiveRow,
    ended_parts,
    failure_lines,
    how_to_approve,
    running_parts,
)
from flows.report.text import duration
from tasks.records.events import (
    ApprovalAsked,
    Event,
    ForecastMade,
    RunStarted,
    StageAborted,
    StageProgress,
    StageStarted,
    StepEnded,
    StepEvent,
)
from tasks.records.step_row import StepRow

PLAIN_EVERY_S = 10.0
MARKS = {
    "done": "[green]✓[/]",
    "cached": "[green]✓[/]",
    "refused": "[red]✗[/]",
    "failed": "[red]✗[/]",
}


class LiveDisplay:
    """A listener that draws a pipeline's events on a console; a context around the run.

    plain_every_s: seconds between two lines about a stage's progress outside a terminal.
    """

    def __init__(self, console: Console, plain_every_s: float = PLAIN_EVERY_S):
        self.console = console
        self.plain_every_s = plain_every_s
        self.rows: dict[str, LiveRow] = {}
        self.told: set[str] = set()  # messages of failures shown in full
        self.record_id: str | None = None  # of the run that is shown
        self._lock = threading.RLock()
        self._last_line: dict[str, float] = {}
        self._live = (
            Live(get_renderable=self._render, console=console, refresh_per_second=4)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> "LiveDisplay":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.stop()

    def __call__(self, event: Event) -> None:
        """Take one event; this is the listener."""
        now = time.monotonic()
        if isinstance(event, RunStarted):
            self.record_id = event.record_id
            return
        with self._lock:
            self._take(event, now)
        # outside the lock: the drawing thread takes the console's lock first, then this one
        if isinstance(event, StageAborted):
            self.told.add(event.message)
            self._line("\n".join(failure_lines(event)))
        elif not self._live:
            self._print_plain(event, now)
        if self._live:
            self._live.refresh()

    def _take(self, event: StepEvent, now: float) -> None:
        if isinstance(event, StageStarted):
            begun = StepRow(
                event.stage, "cached" if event.cached else "running", run_dir=event.run_dir
            )
            self.rows[event.stage] = LiveRow(begun, now)
            return
        live = self.rows.setdefault(event.stage, LiveRow(StepRow(event.stage, "running"), now))
        if isinstance(event, StageProgress):
            live.progress(event, now)
        elif isinstance(event, ForecastMade):
            live.foresee(event.forecast, now)
        elif isinstance(event, ApprovalAsked):
            live.row = replace(live.row, state="waiting")
            live.how_to_answer = how_to_approve(event)
        elif isinstance(event, StepEnded):
            live.row = event.row

    # plain lines

    def _print_plain(self, event: StepEvent, now: float) -> None:
        live = self.rows[event.stage]
        if isinstance(event, StageStarted):
            if not event.cached:
                self._line(f"{event.stage}: started, log {event.run_dir / 'stage.log'}")
            if event.continues:
                self._line(
                    f"{event.stage}: goes on from {event.continues}, of other ranks or layout"
                )
            self._last_line[event.stage] = now
        elif isinstance(event, StageProgress):
            if now - self._last_line.get(event.stage, now) >= self.plain_every_s:
                self._last_line[event.stage] = now
                self._line(f"{event.stage}: " + ", ".join(running_parts(live, now)))
        elif isinstance(event, ApprovalAsked):
            self._line(f"{event.stage}: {live.how_to_answer}")
        elif isinstance(event, StepEnded) and event.row.state != "failed":  # StageAborted said it
            self._line(f"{event.stage}: " + "; ".join(ended_parts(event.row)))

    def _line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    # live lines

    def _render(self) -> RenderableType:
        now = time.monotonic()
        with self._lock:
            grid = Table.grid(padding=(0, 1))
            grid.add_column(width=2)
            grid.add_column(min_width=8)
            grid.add_column(width=14)
            grid.add_column(ratio=1)
            for live in self.rows.values():
                grid.add_row(*_cells(live, now))
            return Group(grid)


def _cells(live: LiveRow, now: float) -> tuple[RenderableType, ...]:
    row = live.row
    if row.state == "running":
        step, steps = row.progress or (0, None)
        bar = ProgressBar(total=steps, completed=step, width=14, pulse=steps is None)
        line = Text(", ".join(running_parts(live, now)))
        return Spinner("dots"), Text(row.name, style="bold"), bar, line
    if row.state == "waiting":
        so_far, how = Text(duration(now - live.began)), Text(live.how_to_answer, style="yellow")
        return Spinner("dots"), Text(row.name, style="bold"), so_far, how
    mark, line = Text.from_markup(MARKS[row.state]), Text("; ".join(ended_parts(row)[1:]))
    return mark, Text(row.name), Text(duration(row.seconds)), line
