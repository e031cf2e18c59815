"""The live display of a pipeline: a line per stage in a terminal, plain lines elsewhere."""

import threading
import time

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from flows.display.stage_view import (
    StageView,
    ended_parts,
    failure_lines,
    how_to_approve,
    running_parts,
)
from flows.report.text import duration
from rlhf_core.gates.decide import refused
from tasks.records.events import (
    ApprovalAsked,
    ApprovalDecided,
    Event,
    RunStarted,
    StageAborted,
    StageEvent,
    StageFinished,
    StageProgress,
    StageStarted,
)

PLAIN_EVERY_S = 10.0
MARKS = {
    "done": "[green]✓[/]",
    "cached": "[green]✓[/]",
    "refused": "[red]✗[/]",
    "failed": "[red]✗[/]",
}


class LiveDisplay:
    """A listener that draws a pipeline's events on a console; a context around the run."""

    def __init__(self, console: Console):
        self.console = console
        self.views: dict[str, StageView] = {}
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

    def _take(self, event: StageEvent, now: float) -> None:
        if isinstance(event, StageStarted):
            self.views[event.stage] = StageView(
                event.stage, event.run_dir, now, state="cached" if event.cached else "running"
            )
            return
        view = self.views.setdefault(event.stage, StageView(event.stage, None, now))
        if isinstance(event, StageProgress):
            view.progress(event, now)
        elif isinstance(event, StageFinished):
            view.state = (
                "refused" if refused(event.decisions) else "cached" if event.cached else "done"
            )
            view.seconds, view.link = event.seconds, event.link
            view.decisions = list(event.decisions)
            view.metrics |= event.metrics
        elif isinstance(event, ApprovalAsked):
            view.state, view.note = "waiting", how_to_approve(event)
        elif isinstance(event, ApprovalDecided):
            view.state, view.note = "done" if event.approved else "refused", event.sentence
            view.seconds, view.link = event.seconds, event.link
        else:
            view.state, view.seconds, view.failure = "failed", now - view.began, event.message

    # plain lines

    def _print_plain(self, event: StageEvent, now: float) -> None:
        view = self.views[event.stage]
        if isinstance(event, StageStarted):
            if not event.cached:
                self._line(f"{event.stage}: started, log {event.run_dir / 'stage.log'}")
            self._last_line[event.stage] = now
        elif isinstance(event, StageProgress):
            if now - self._last_line.get(event.stage, now) >= PLAIN_EVERY_S:
                self._last_line[event.stage] = now
                self._line(f"{event.stage}: " + ", ".join(running_parts(view, now)))
        elif isinstance(event, ApprovalAsked):
            self._line(f"{event.stage}: {view.note}")
        elif isinstance(event, StageFinished | ApprovalDecided):
            self._line(f"{event.stage}: " + "; ".join(ended_parts(view)))

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
            for view in self.views.values():
                grid.add_row(*_live_row(view, now))
            return Group(grid)


def _live_row(view: StageView, now: float) -> tuple[RenderableType, ...]:
    if view.state == "running":
        bar = ProgressBar(
            total=view.steps or None, completed=view.step, width=14, pulse=not view.steps
        )
        return (
            Spinner("dots"),
            Text(view.stage, style="bold"),
            bar,
            Text(", ".join(running_parts(view, now))),
        )
    if view.state == "waiting":
        so_far, how = Text(duration(now - view.began)), Text(view.note, style="yellow")
        return Spinner("dots"), Text(view.stage, style="bold"), so_far, how
    mark = Text.from_markup(MARKS[view.state])
    return (
        mark,
        Text(view.stage),
        Text(duration(view.seconds)),
        Text("; ".join(ended_parts(view)[1:])),
    )
