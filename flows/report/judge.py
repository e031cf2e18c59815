"""The judge in a run's report: verdicts, position bias, agreement with people, tokens."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from flows.report.page import cell, join, table
from flows.report.text import interval, text_of
from tasks.analysis.rater_agreement import Bounded, RaterAgreement, rater_agreements
from tasks.analysis.run_evidence import Estimate

RIVALS = {"": "SFT model", "_vs_champion": "champion"}
COLUMNS = {
    "win_rate": "policy wins",
    "ties": "ties",
    "first_position": "answers for the first reply",
    "position_bias": "winner changed with the order",
    "inconsistent": "orders contradict",
    "unreadable": "unreadable",
}
POSITION_NOTE = (
    "Each pair is shown in both orders, so a judge without position bias gives half of its answers"
    " for the first reply. A verdict that the other order does not confirm is a tie."
)
AGREEMENT_NOTE = (
    "Held-out pairs with a label, on which both prefer one reply. Alpha is 0 for guessing and 1 for"
    " full agreement. Intervals are 95% and take each prompt as a whole."
)


def judge_part(metrics: Mapping[str, Estimate]) -> Markup:
    """Return the tables of the judge; '' for an evaluation without one."""
    rivals = [suffix for suffix in RIVALS if f"eval/judge_win_rate{suffix}" in metrics]
    if not rivals:
        return Markup("")
    rows = [_verdict_cells(metrics, suffix) for suffix in rivals]
    head = ["against the", *COLUMNS.values(), "pairs"]
    parts = [table(head, rows, numeric=range(1, len(head))), _note(POSITION_NOTE)]
    if found := rater_agreements(metrics):
        parts.append(agreement_table(found))
    if used := usage(metrics):
        parts.append(_note(used))
    return join(parts)


def _verdict_cells(metrics: Mapping[str, Estimate], suffix: str) -> list[Markup]:
    found = [metrics.get(f"eval/judge_{name}{suffix}") for name in COLUMNS]
    n = metrics[f"eval/judge_win_rate{suffix}"].n
    numbers = [
        cell(text_of(one.value), kind="num", small=interval(one.low, one.high))
        if one
        else cell("", kind="num")
        for one in found
    ]
    return [cell(RIVALS[suffix]), *numbers, cell("" if n is None else f"{n:,}", kind="num")]


def agreement_table(found: Sequence[RaterAgreement]) -> Markup:
    """Return the agreement of each two raters as a table with a note."""
    rows = [
        [cell(one.raters), _bounded(one.share), _bounded(one.alpha), cell(f"{one.n:,}", kind="num")]
        for one in found
    ]
    head = ["raters", "agreement", "Krippendorff's alpha", "pairs"]
    return table(head, rows, numeric=[1, 2, 3]) + _note(AGREEMENT_NOTE)


def _bounded(value: Bounded) -> Markup:
    return cell(text_of(value[0]), kind="num", small=interval(*value[1:]))


def usage(metrics: Mapping[str, Estimate]) -> str:
    """Return a sentence on the judge's tokens and their cost; '' where none are recorded."""
    prompt, completion = (
        metrics.get(f"eval/judge_{kind}_tokens") for kind in ("prompt", "completion")
    )
    if prompt is None or completion is None:
        return ""
    answers = "" if prompt.n is None else f" for {prompt.n:,} answers"
    text = (
        f"The judge took {prompt.value:,.0f} prompt tokens and {completion.value:,.0f} completion"
        f" tokens{answers}"
    )
    cost = metrics.get("eval/judge_cost")
    return f"{text}, which cost {cost.value:.4g}." if cost else f"{text}."


def _note(text: str) -> Markup:
    return Markup("<p class=note>{}</p>").format(text)
