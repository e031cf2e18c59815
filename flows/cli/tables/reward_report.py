"""The report about a reward model as tables and sentences."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from flows.report.reward import CAUTION, about, advice, gain_text, on_policy, three
from flows.report.text import shortened
from rlhf_core.reward.slices import Bin, Slice
from tasks.analysis.rater_agreement import RaterAgreement
from tasks.analysis.reward_report import LearningPoint, OnPolicyCheck, RewardReport

LONGEST = 160  # characters of an item's text


def report_parts(found: RewardReport) -> Iterator[RenderableType]:
    """Yield the tables of a report, each with the sentence that sums it up."""
    shared = f" of {found.prompts:,} prompts" if found.prompts < found.pairs else ""
    title = f"Reward model of {found.run}: {found.pairs:,} held-out pairs{shared}, {found.verdict}"
    yield _slice_table(title, found.slices)
    yield Text(CAUTION, style="dim")
    yield _calibration_table(found.calibration)
    if found.learning_curve:
        yield _learning_table(found.learning_curve)
        yield Text(advice(found.learning_curve))
    if found.agreement:
        yield _agreement_table(found.agreement)
    if found.checks:
        yield _check_table(found.checks)
        yield Text(on_policy(found))


def mistake_texts(mistakes: list[dict]) -> Iterator[Text]:
    """Yield each mistake: how confident the model was, and the start of the texts."""
    for place, row in enumerate(mistakes, start=1):
        head = (
            f"{place:3}. wrong with {row['confidence']:.1%} confidence (margin {row['margin']:.3g})"
            f" {about(row)}"
        )
        texts = [
            f"     {name}: {shortened(' '.join(row[name].split()), LONGEST)}"
            for name in ("prompt", "chosen", "rejected")
        ]
        yield Text("\n".join([head, *texts]))


def _table(title: str, columns: tuple[str, ...], left: tuple[str, ...] = ()) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="left" if column in left else "right")
    return table


def _slice_table(title: str, slices: list[Slice]) -> Table:
    columns = ("column", "value", "pairs", "accuracy", "95%", "against the rest", "")
    table = _table(title, columns, left=("column", "value", ""))
    for one in slices:
        cells = (
            one.column,
            one.value,
            f"{one.n:,}" + (f" of {one.prompts:,} prompts" if one.prompts < one.n else ""),
            f"{one.accuracy:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
        )
        table.add_row(*map(Text, cells), *_against_rest(one))
    return table


def _against_rest(one: Slice) -> tuple[Text, Text]:
    """Return the difference from all other pairs, and the word for a significant one."""
    if one.against_rest is None:
        return Text(""), Text("")
    difference, low, high = one.against_rest
    shown = Text(f"{difference:+.3f} [{low:+.3f}, {high:+.3f}]")
    if not one.differs:
        return shown, Text("")
    return shown, Text("better", "green") if difference > 0 else Text("worse", "red")


def _calibration_table(bins: list[Bin]) -> Table:
    table = _table("Calibration, ten bins of equal count", ("confidence", "right", "95%", "pairs"))
    for one in bins:
        cells = (
            f"{one.confidence:.3f}",
            f"{one.right:.3f}",
            f"{one.low:.3f} to {one.high:.3f}",
            str(one.n),
        )
        table.add_row(*map(Text, cells))
    return table


def _learning_table(points: list[LearningPoint]) -> Table:
    columns = ("training pairs", "accuracy", "95%", "held-out loss", "against the row above")
    table = _table("Learning curve: nested subsets, the same held-out pairs", columns)
    for point in points:
        cells = (
            f"{point.pairs:,}",
            f"{point.accuracy:.3f}",
            f"{point.low:.3f} to {point.high:.3f}",
            f"{point.loss:.4f}",
            gain_text(point),
        )
        table.add_row(*map(Text, cells))
    return table


def _agreement_table(found: list[RaterAgreement]) -> Table:
    columns = ("raters", "agreement", "Krippendorff's alpha", "pairs")
    table = _table("Agreement with the judge and people", columns, left=("raters",))
    for one in found:
        table.add_row(*map(Text, (one.raters, three(one.share), three(one.alpha), f"{one.n:,}")))
    return table


def _check_table(checks: list[OnPolicyCheck]) -> Table:
    columns = (
        "PPO step",
        "labelled pairs",
        "accuracy",
        "fall from step 0",
        "mean |score difference|",
    )
    table = _table("On fresh pairs of the policy's own replies", columns)
    for check in checks:
        cells = (
            str(check.step),
            f"{check.labelled} of {check.pairs}",
            three(check.accuracy),
            three(check.fall, signed=True),
            f"{check.margin:.3f}",
        )
        table.add_row(*map(Text, cells))
    return table
