"""Inspected rows in the terminal, and the phrases that their page uses too."""

from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flows.report.trace_text import visible
from rlhf_core.inspection.shown import InspectedRow, InspectedStage

STYLES = {"prompt": "", "response": "cyan", "trained": "bold green"}
LEGEND = (
    ("prompt", "read, no loss"),
    ("response", "an answer that is read, no loss at its tokens"),
    ("trained", "the loss has a term at each token"),
)
BLANK = "\N{MIDDLE DOT}"
END, SCORE = "the reply ends", "the score is read"


def stage_lines(stage: InspectedStage) -> Iterator[RenderableType]:
    """Yield a stage's heading, and its rows token by token."""
    yield Text.assemble((f"\n{stage.stage}", "bold cyan"), f": {stage.meaning}")
    yield Text(shown_of(stage), style="dim")
    for row in stage.rows:
        yield Text(f"  {row_heading(row)}", style="bold")
        yield _tokens(row)


def shown_of(stage: InspectedStage) -> str:
    """Return the number of rows shown, of those that the stage takes, and from where."""
    shown = len({row.record for row in stage.rows})
    return f"{shown} of {stage.count:,} rows of {stage.split}, tokens of {shown_path(stage.model)}"


def shown_path(path: Path) -> Path:
    """Return a path as it is seen from the current folder."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def row_heading(row: InspectedRow) -> str:
    """Return 'chosen of 3f2a90: 24 tokens, 9 of them trained'."""
    trained = sum(row.trained)
    what = f", {trained} of them trained" if trained else ""
    return f"{row.kind} of {row.record}: {len(row.ids)} tokens{what}"


def part_of(row: InspectedRow, place: int) -> str:
    """Return the part of a token: 'prompt', 'response' or 'trained'."""
    if row.trained[place]:
        return "trained"
    return "prompt" if place < row.prompt else "response"


def marks_of(row: InspectedRow, place: int) -> list[str]:
    """Return what happens at a token, in words."""
    return [word for word, at in ((END, row.ends_at), (SCORE, row.score_at)) if at == place]


def shown_token(text: str) -> str:
    """Return a token with visible signs for its blanks, tabs and line ends."""
    return visible(text).replace(" ", BLANK)


def _tokens(row: InspectedRow) -> Table:
    """Return one line per part of a row: its name, then each token with its id in brackets."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 1))
    table.add_column(no_wrap=True, style="dim", min_width=12, justify="right")
    table.add_column(overflow="fold")
    for part, places in groupby(range(len(row.ids)), key=lambda place: part_of(row, place)):
        line = Text()
        for place in places:
            line.append(shown_token(row.texts[place]), style=STYLES[part])
            line.append(f"[{row.ids[place]}] ", style="dim")
            for mark in marks_of(row, place):
                line.append(f"<- {mark} ", style="bold magenta")
        table.add_row(part, line)
    return table
