"""`rlhf reward-report`: how good a run's reward model is, and if more labels would help."""

from pathlib import Path
from typing import Annotated

import typer

from flows.cli.options import AsJson, PageFile, RunName
from flows.cli.output import console, print_json, print_page_path, print_parts, write_page
from rlhf_core.errors import ConfigError

WIDE = 160  # columns outside a terminal

Shares = Annotated[
    str | None,
    typer.Option(
        "--learning-curve",
        metavar="SHARES",
        help="Also train on these shares of the pairs, e.g. 0.125,0.25,0.5: one stage per share",
    ),
]
LabelsFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        exists=True,
        dir_okay=False,
        help=(
            "Labels of the policy's replies that ppo.reward_check has paired: one JSON object per"
            " line with id and label (a, b or tie)"
        ),
    ),
]
Mistakes = Annotated[
    int, typer.Option(min=0, help="Number of the most confident mistakes to print")
]


def reward_report(
    run: RunName = "latest",
    learning_curve: Shares = None,
    labels: LabelsFile = None,
    mistakes: Mistakes = 5,
    html: PageFile = None,
    as_json: AsJson = False,
) -> None:
    """Report where a run's reward model is right, and where it is wrong.

    Shows accuracy by slice, calibration, curves and the most confident mistakes, and writes one
    HTML page. Slices are all further columns of the comparisons (domain, quality dimension, ...),
    lengths and annotator agreement.
    """
    from flows.cli.tables.reward_report import mistake_texts, report_parts
    from flows.report.reward import reward_page
    from tasks.analysis.gate_report import find_run
    from tasks.analysis.reward_report import report
    from tasks.records.workspace import Workspace

    workspace, shares = Workspace.here(), _shares(learning_curve)
    found = report(find_run(workspace, run), shares=shares, workspace=workspace, labels=labels)
    path = html or workspace.home / "reports" / f"{found.run}-reward.html"
    write_page(path, reward_page(found))
    if as_json:
        print_json(found.as_json() | {"page": str(path)})
        return
    out = console(WIDE)
    for part in report_parts(found):
        out.print(part)
    print_parts(out, mistake_texts(found.mistakes[:mistakes]))
    print_page_path(path)


def _shares(text: str | None) -> list[float]:
    try:
        return [float(part) for part in text.split(",")] if text else []
    except ValueError:
        raise ConfigError(
            f"--learning-curve is {text!r}; expected shares with commas between them, e.g. 0.25,0.5"
        ) from None
