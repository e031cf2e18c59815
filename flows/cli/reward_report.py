"""`rlhf reward-report`: where a run's reward model is right, where it is not, and whether more
labels would help.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from flows.cli.gates import run_names
from rlhf_core.errors import ConfigError, RLHFError

WIDE = 160  # columns of a table that is not printed to a terminal
TEXT = 160  # characters of an item's text in the terminal


def reward_report(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            help="A run's name (see rlhf status), the beginning of its id, latest or latest~1",
            autocompletion=run_names,
        ),
    ] = "latest",
    learning_curve: Annotated[
        str | None,
        typer.Option(
            metavar="SHARES",
            help="Also train on these shares of the pairs, e.g. 0.125,0.25,0.5: a stage each",
        ),
    ] = None,
    labels: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            exists=True,
            dir_okay=False,
            help=(
                "Labels of the policy's replies that ppo.reward_check has paired: id and label (a,"
                " b or tie) a line, JSON"
            ),
        ),
    ] = None,
    mistakes: Annotated[
        int, typer.Option(min=0, help="How many of the most confident mistakes to print")
    ] = 5,
    html: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Where the page goes [default: reports in the workspace]"
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print the result as JSON on standard output")
    ] = False,
) -> None:
    """Accuracy of the reward model by slice, its calibration, curves and most confident mistakes;
    as one HTML page, too.

    Slices are every further column of the comparisons (domain, quality dimension, ...), lengths and
    annotator agreement.
    """
    from flows.report.reward import reward_page
    from tasks.analysis.gate_report import find_run
    from tasks.analysis.reward_report import report
    from tasks.records.workspace import Workspace

    workspace = Workspace.here()
    found = report(
        find_run(workspace, run), shares=_shares(learning_curve), workspace=workspace, labels=labels
    )
    path = _written(
        html or workspace.home / "reports" / f"{found.run}-reward.html", reward_page(found)
    )
    if as_json:
        print(json.dumps(found.as_json() | {"page": str(path)}, indent=2))
    else:
        _print(found, mistakes, path)


def _shares(text: str | None) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(
            f"--learning-curve is {text!r}; expected shares with commas between them, e.g. 0.25,0.5"
        ) from None


def _written(path: Path, text: str) -> Path:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise RLHFError(
            f"the page cannot be written to {path} ({error}). Give another file with --html."
        ) from None
    return path


def _print(found, mistakes: int, path: Path) -> None:
    from rich.console import Console
    from rich.text import Text

    from flows.report.reward import CAUTION, about, advice, on_policy

    console = Console()
    console = console if console.is_terminal else Console(width=WIDE)
    console.print(_slices(found))
    console.print(Text(CAUTION, style="dim"))
    console.print(_calibration(found))
    if found.learning_curve:
        console.print(_learning(found))
        console.print(Text(advice(found.learning_curve)))
    if found.checks:
        console.print(_checks(found))
        console.print(Text(on_policy(found)))
    for place, row in enumerate(found.mistakes[:mistakes], start=1):
        head = (
            f"{place:3}. wrong with {row['confidence']:.1%} confidence (margin {row['margin']:.3g})"
            f" {about(row)}"
        )
        texts = [f"     {name}: {_cut(row[name])}" for name in ("prompt", "chosen", "rejected")]
        console.print(Text("\n".join([head, *texts])), soft_wrap=True)
    console.print(f"Page: {path}", soft_wrap=True, markup=False, highlight=False)


def _table(title: str, columns: tuple[str, ...], left: tuple[str, ...] = ()):
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _slices(found):
    from rich.text import Text

    title = f"Reward model of {found.run}: {found.pairs:,} held-out pairs, {found.verdict}"
    columns = ("column", "value", "pairs", "accuracy", "95%", "against the rest", "")
    table = _table(title, columns, left=("column", "value", ""))
    for one in found.slices:
        against = one.against_rest
        beside = f"{against[0]:+.3f} [{against[1]:+.3f}, {against[2]:+.3f}]" if against else ""
        word, style = (
            ("", "")
            if not one.differs
            else ("better", "green")
            if against[0] > 0
            else ("worse", "red")
        )
        cells = (
            one.column,
            one.value,
            f"{one.n:,}",
            f"{one.accuracy:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            beside,
        )
        table.add_row(*map(Text, cells), Text(word, style=style))
    return table


def _calibration(found):
    from rich.text import Text

    table = _table("Calibration, ten bins of equal count", ("confidence", "right", "95%", "pairs"))
    for part in found.calibration:
        cells = (
            f"{part.confidence:.3f}",
            f"{part.right:.3f}",
            f"{part.low:.3f} to {part.high:.3f}",
            str(part.n),
        )
        table.add_row(*map(Text, cells))
    return table


def _learning(found):
    from rich.text import Text

    from flows.report.reward import gain_text

    columns = ("training pairs", "accuracy", "95%", "held-out loss", "against the row above")
    table = _table("Learning curve: nested subsets, the same held-out pairs", columns)
    for point in found.learning_curve:
        bounds = f"{point.low:.3f} to {point.high:.3f}"
        cells = (
            f"{point.pairs:,}",
            f"{point.accuracy:.3f}",
            bounds,
            f"{point.loss:.4f}",
            gain_text(point),
        )
        table.add_row(*map(Text, cells))
    return table


def _checks(found):
    from rich.text import Text

    from flows.report.reward import three

    columns = (
        "PPO step",
        "labelled pairs",
        "accuracy",
        "fall from step 0",
        "mean |score difference|",
    )
    table = _table("On fresh pairs of the policy's own replies", columns)
    for check in found.checks:
        labelled, fall = f"{check.labelled} of {check.pairs}", three(check.fall, signed=True)
        table.add_row(
            *map(
                Text,
                (str(check.step), labelled, three(check.accuracy), fall, f"{check.margin:.3f}"),
            )
        )
    return table


def _cut(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= TEXT else line[: TEXT - 1] + "…"
