"""The HTML page of a reward model's analysis, and the sentences that the terminal shows too."""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.charts import Chart, Series, figure
from flows.report.comparison_tables import REPLY_LENGTH
from flows.report.judge import agreement_table
from flows.report.page import Section, badge, cell, code, join, page, table
from flows.report.stage_tables import MARKS
from flows.report.text import interval, shortened, text_of
from rlhf_core.evidence.items import OF_DATA
from rlhf_core.metrics import METRICS
from rlhf_core.reward.slices import Slice
from tasks.analysis.reward_report import LearningPoint, RewardReport

SHOWN = (
    "reward/accuracy",
    "reward/accuracy_when_shorter",
    "reward/accuracy_over_length",
    "reward/length_correlation",
    "reward/heldout_loss",
    "reward/heldout_margin",
    "reward/calibration_error",
    "reward/heldout_spread",
)
CAUTION = (
    "Intervals are 95% each (Wilson; differences: Newcombe). 'better' and 'worse' are corrected for"
    " the number of slices: of those called so, 5% are expected to be like the rest."
)


def reward_page(found: RewardReport) -> str:
    """Return the page: overview, slices, calibration, curves, learning curve, mistakes."""
    return page(f"Reward model of {found.run}", _lead(found), _sections(found))


def _lead(found: RewardReport) -> Markup:
    text = Markup("<p>{} {:,} held-out pairs{}; ranked as labelled: <b>{}</b> {}</p>")
    accuracy = found.metrics["reward/accuracy"]
    bounds = interval(accuracy["low"], accuracy["high"])
    return text.format(
        badge(found.verdict, MARKS.get(found.verdict, "")),
        found.pairs,
        f" of {found.prompts:,} prompts" if found.prompts < found.pairs else "",
        text_of(accuracy["value"]),
        bounds,
    )


def _sections(found: RewardReport) -> Iterable[Section]:
    yield "Held-out numbers", _metrics(found)
    if found.agreement:
        yield "Agreement with judge and people", agreement_table(found.agreement)
    yield "Accuracy by slice", slice_table(found.slices)
    yield "Calibration and curves", _charts(found)
    yield "Would more labels help?", _learning(found.learning_curve)
    yield "On the policy's own replies", _checks(found)
    yield "Most confident mistakes", _mistakes(found.mistakes)


def _metrics(found: RewardReport) -> Markup:
    names = [name for name in found.metrics if name in SHOWN or "_member_" in name]
    rows = []
    for name in names:
        value, about = found.metrics[name], METRICS[name]
        number = cell(
            text_of(value["value"]), kind="num", small=interval(value["low"], value["high"])
        )
        rows.append([cell(code(name), small=about.meaning), number, cell(about.unit)])
    return table(["metric", "value", "unit"], rows, numeric=[1])


def slice_table(found: list[Slice]) -> Markup:
    """Return a table of the slices: accuracy, and its difference from the rest of the pairs."""
    head = ["column", "value", "pairs", "accuracy", "against the rest", "", "mean margin"]
    rows = [_slice_cells(one) for one in found]
    return table(head, rows, numeric=[2, 3, 4, 6], classes="sortable") + Markup(
        "<p class=note>{}</p>"
    ).format(CAUTION)


def _slice_cells(one: Slice) -> list[Markup]:
    against = one.against_rest
    return [
        cell(one.column),
        cell(one.value),
        cell(f"{one.n:,}", kind="num", small=_prompts(one), sort=one.n),
        cell(
            text_of(one.accuracy), kind="num", small=interval(one.low, one.high), sort=one.accuracy
        ),
        cell(
            text_of(against[0], signed=True) if against else "",
            kind="num",
            small=interval(*against[1:], signed=True) if against else "",
            sort=against[0] if against else None,
        ),
        cell(_mark(one)),
        cell(text_of(one.margin, signed=True), kind="num", sort=one.margin),
    ]


def _prompts(one: Slice) -> str:
    return f"{one.prompts:,} prompts" if one.prompts < one.n else ""


def _mark(one: Slice) -> Markup:
    if not one.differs or one.against_rest is None:
        return Markup("")
    if one.against_rest[0] > 0:
        return badge("better than the rest", "good")
    return badge("worse than the rest", "bad")


def _charts(found: RewardReport) -> Markup:
    bins = [(part.confidence, part.right) for part in found.calibration]
    note = (
        "Held-out pairs in ten bins of equal count; on the dashed line the model is as sure as it"
        " is right."
    )
    charts = [
        Chart(
            "Calibration",
            "confidence",
            "share ranked as labelled",
            [Series("model", bins)],
            diagonal=True,
            note=note,
        )
    ]
    for name, curve in found.curves.items():
        charts.append(
            Chart(METRICS[name].meaning, "step", METRICS[name].unit, [Series(name, curve)])
        )
    return Markup("<div class=charts>{}</div>").format(join(map(figure, charts)))


def _learning(points: list[LearningPoint]) -> Markup:
    if not points:
        return Markup(
            "<p class=dim>Not asked for: rlhf reward-report RUN --learning-curve 0.125,0.25,0.5"
            " trains on parts.</p>"
        )
    series = [Series("accuracy", [(p.pairs, p.accuracy) for p in points])]
    series += [
        Series(f"{side} 95% bound", [(p.pairs, getattr(p, side)) for p in points], 5)
        for side in ("low", "high")
    ]
    chart = figure(
        Chart("Held-out accuracy against training pairs", "training pairs", "share", series)
    )
    rows = [
        [
            cell(f"{p.pairs:,}", kind="num"),
            cell(text_of(p.accuracy), kind="num", small=interval(p.low, p.high)),
            cell(text_of(p.loss), kind="num"),
            cell(gain_text(p)),
        ]
        for p in points
    ]
    head = [
        "training pairs",
        "accuracy",
        "held-out loss, nats/pair",
        "against the row above, same held-out pairs",
    ]
    text = Markup("<p>{}</p><div class=charts>{}</div>{}")
    return text.format(advice(points), chart, table(head, rows, numeric=[0, 1, 2]))


def gain_text(point: LearningPoint) -> str:
    """Return a point's gain as '+0.021 [0.004, 0.038]'; '' for the first point."""
    return three(point.gain, signed=True)


def advice(points: list[LearningPoint]) -> str:
    """Return a sentence on the use of more labels, from the last step of the learning curve."""
    if len(points) < 2 or points[-1].gain is None:
        return "One point is no curve: give smaller shares."
    (before, last), (gain, low, high) = points[-2:], points[-1].gain
    step = (
        f"From {before.pairs:,} to {last.pairs:,} pairs accuracy changed by {gain:+.3f}"
        f" [{low:+.3f}, {high:+.3f}]"
    )
    if low > 0:
        return f"{step}: still rising, so more labels are likely to help."
    if high < 0:
        return f"{step}: it fell, so look at the labels before collecting more."
    return (
        f"{step}: no significant change, so more labels of this kind promise little, or the"
        " held-out set is too small to tell."
    )


def _checks(found: RewardReport) -> Markup:
    if not found.checks:
        return Markup("")
    rows = [
        [
            cell(str(c.step), kind="num"),
            cell(f"{c.labelled} of {c.pairs}", kind="num"),
            cell(three(c.accuracy), kind="num"),
            cell(three(c.fall, signed=True), kind="num"),
            cell(text_of(c.margin), kind="num"),
        ]
        for c in found.checks
    ]
    head = ["PPO step", "labelled pairs", "accuracy", "fall from step 0", "mean |score difference|"]
    curve = [(c.step, c.accuracy[0]) for c in found.checks if c.accuracy]
    chart = figure(
        Chart(
            "Accuracy on fresh pairs of the policy's replies",
            "PPO step",
            "share",
            [Series("accuracy", curve)],
        )
    )
    text = Markup("<p>{}</p><div class=charts>{}</div>{}")
    return text.format(on_policy(found), chart, table(head, rows, numeric=[0, 1, 2, 3, 4]))


def on_policy(found: RewardReport) -> str:
    """Return a sentence on accuracy on the policy's own replies, from the last check."""
    heldout = (
        f"on held-out pairs of the data accuracy is {found.metrics['reward/accuracy']['value']:.3f}"
    )
    last = found.checks[-1]
    if last.accuracy is None:
        return f"The pairs wait for labels (rlhf reward-report RUN --labels FILE); {heldout}."
    fell = f", {three(last.fall, signed=True)} below the SFT model's replies" if last.fall else ""
    return (
        f"After step {last.step} accuracy on the policy's own replies is"
        f" {three(last.accuracy)}{fell}; {heldout}."
    )


def three(estimate: tuple[float, float, float] | None, *, signed: bool = False) -> str:
    """Return (value, low, high) as '0.71 [0.6, 0.8]'; '' for None."""
    if estimate is None:
        return ""
    value, low, high = estimate
    return f"{text_of(value, signed=signed)} {interval(low, high, signed=signed)}"


def _mistakes(found: list[dict]) -> Markup:
    if not found:
        return Markup("<p class=dim>None: every pair is ranked as labelled.</p>")
    head = [
        "prompt",
        "chosen by the annotators",
        "score",
        "preferred by the model",
        "score",
        "confidence",
        "about",
    ]
    rows = [_mistake_cells(row) for row in found]
    return table(head, rows, numeric=[2, 4, 5], classes="sortable samples")


def _mistake_cells(row: dict) -> list[Markup]:
    cells = [_text(row["prompt"])]
    for side in ("chosen", "rejected"):
        score, tokens = row[f"{side}_score"], row[f"{side}_tokens"]
        cells += [
            _text(row[side]),
            cell(text_of(score), kind="num", small=f"{tokens} tokens", sort=score),
        ]
    cells.append(cell(f"{row['confidence']:.1%}", kind="num", sort=row["confidence"]))
    return [*cells, cell(about(row))]


def about(row: dict) -> str:
    """Return the annotations of a pair, as 'agreement 0.667, domain code'."""
    known = {
        name: v
        for name, v in row.items()
        if v is not None and (name == "agreement" or name.startswith(OF_DATA))
    }
    return ", ".join(
        f"{name.removeprefix(OF_DATA)} {f'{v:.3g}' if isinstance(v, float) else v}"
        for name, v in known.items()
    )


def _text(text: str) -> Markup:
    return cell(Markup("<div class=reply>{}</div>").format(shortened(text, REPLY_LENGTH)))
