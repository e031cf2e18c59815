"""Labelling campaigns in words: each annotator's votes, their agreement, the data."""

from collections.abc import Mapping
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from flows.cli.output import console
from rlhf_core.labels.outcome import LabelledData
from rlhf_core.labels.report import AnnotatorReport, CampaignReport, ShareInterval

COLUMNS = (
    "annotator",
    "votes",
    "same",
    "both bad",
    "no opinion",
    "pace",
    "with others",
    "first",
    "gold",
)


def print_labelled(data: LabelledData, out: Path) -> None:
    """Print what was written, and the report of the votes behind it."""
    printer = console()
    printer.print(annotator_table(data.report))
    for line in agreement_lines(data.report):
        printer.print(Text(line), soft_wrap=True)
    print(
        f"{len(data.comparisons)} comparisons: {out}. {len(data.apart)} pairs without a preference,"
        f" votes, report and provenance: {out.with_suffix('.labels')}/."
    )


def annotator_table(report: CampaignReport) -> Table:
    """Return one row per annotator."""
    weighed = any(row.weight is not None for row in report.annotators)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in (*COLUMNS, *(("weight",) if weighed else ())):
        table.add_column(column, justify="left" if column == "annotator" else "right", no_wrap=True)
    for row in report.annotators:
        cells = _cells(row) + ([f"{row.weight:.2f}"] if row.weight is not None else [])
        table.add_row(*map(Text, cells))
    return table


def _cells(row: AnnotatorReport) -> list[str]:
    return [
        row.annotator,
        str(row.votes),
        str(row.same),
        str(row.both_bad),
        str(row.cannot_judge),
        "-" if row.pace is None else f"{row.pace:.0f} s",
        _share(row.with_others),
        _share(row.first),
        _share(row.gold),
    ]


def _share(share: ShareInterval | None) -> str:
    return "-" if share is None else f"{share[0]:.2f} ({share[1]:.2f}-{share[2]:.2f})"


WIDE = 1.0  # an interval of alpha; all values are between -1 and 1


def agreement_lines(report: CampaignReport) -> list[str]:
    """Return alpha with its interval, the outcomes, and the number of pairs in dispute."""
    alpha = report.alpha
    agreed = "alpha: unknown, no pair has two votes that prefer a reply"
    if alpha is not None:
        agreed = (
            f"alpha: {alpha.alpha:.3f} ({alpha.low:.3f} to {alpha.high:.3f}, Krippendorff, 95%)"
            f" over {alpha.n} pairs with two votes or more"
        )
        if alpha.high - alpha.low > WIDE:
            agreed += "; it says almost nothing yet: more pairs need a second vote (--overlap)"
    counted = ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in report.outcomes.items())
    return [agreed, f"pairs by label: {counted or 'none'}", f"in dispute: {len(report.disputes)}"]


STATES = ("done", "declined", "pending", "deleted", "removed", "left", "refused")


def progress_table(states: Mapping[str, Mapping[str, int]]) -> Table:
    """Return the number of pairs by annotator and state."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for column in ("annotator", *STATES):
        table.add_column(column, justify="left" if column == "annotator" else "right", no_wrap=True)
    for name, counted in states.items():
        table.add_row(Text(name), *(Text(str(counted.get(state, 0))) for state in STATES))
    return table


def why_lines(refused: Mapping[str, list[str]]) -> list[str]:
    """Return why answers do not count, one line per annotator."""
    return [
        f"{name}: {len(notes)} answers do not count: {'; '.join(sorted(set(notes)))}"
        for name, notes in refused.items()
    ]
