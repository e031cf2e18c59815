"""The figure over the rounds of a loop, as an HTML page beside the other reports."""

from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from flows.iterate.table import columns_of, outcome_text
from flows.report.charts import Chart, Series, figure
from flows.report.page import Section, badge, cell, join, legend, link, page, table
from rlhf_core.rundir import write_atomically
from tasks.iterate.iteration import KL, PROXY, TRUTH, Iteration
from tasks.records.workspace import Workspace
from tasks.sweeps.figures import measured_text

FILE = "rounds.html"
KINDS = {"promoted": "good", "not promoted": "warn", "refused": "bad"}


@dataclass(frozen=True)
class Panel:
    """One chart over the rounds. lines: metric by its name in the legend."""

    title: str
    unit: str
    lines: dict[str, str]
    note: str = ""


PANELS = (
    Panel(
        "Gain of the policy over the SFT model",
        "score",
        {"true utility": TRUTH, "proxy: the round's reward model": PROXY},
        "Held-out prompts, 95% intervals. Each round's reward model has units of its own.",
    ),
    Panel(
        "Accuracy on held-out comparisons",
        "share",
        {
            "reward model, old": "reward/accuracy",
            "reward model, new": "reward/accuracy_new",
            "reward model before, new": "reward/accuracy_new_before",
            "DPO": "dpo/accuracy",
        },
        "Old: the recipe's comparisons. New: the held-out part of the labels of all rounds so far."
        " Before: the reward model of the champion that the round sampled with.",
    ),
    Panel("KL of the policy from the SFT model", "nats per response", {"KL": KL}),
)


def write_page(workspace: Workspace, iteration: Iteration) -> Path:
    """Write the page of the rounds so far into the workspace's reports, and return its path."""
    path = workspace.home / "reports" / iteration.name / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, rounds_page(iteration))
    return path


def rounds_page(iteration: Iteration) -> str:
    """Return the page: a point and a row per round."""
    request = iteration.request
    lead = Markup("<p class=dim>{} pairs per round from {}, picked {}, labelled by {}.</p>").format(
        request.pairs, ", ".join(request.sources), request.pick, request.by
    )
    charts = join([*(_chart(iteration, panel) for panel in PANELS), _labels(iteration)])
    sections: list[Section] = [
        ("Over the rounds", Markup("<div class=charts>{}</div>").format(charts)),
        ("Rounds", _table(iteration)),
    ]
    return page(iteration.name, lead, sections)


def _chart(iteration: Iteration, panel: Panel) -> Markup:
    """Return a panel with a legend where it has several lines; '' without any."""
    found = [_series(iteration, label, name) for label, name in panel.lines.items()]
    drawn = [series for series in found if series.points]
    coloured = [
        Series(one.label, one.points, color, intervals=one.intervals)
        for color, one in enumerate(drawn)
    ]
    chart = figure(Chart(panel.title, "round", panel.unit, coloured, note=panel.note))
    names = legend([one.label for one in drawn]) if len(drawn) > 1 else Markup("")
    return Markup("<div>{}{}</div>").format(names, chart) if drawn else Markup("")


def _series(iteration: Iteration, label: str, name: str) -> Series:
    found = [
        (float(one.number), one.metrics[name]) for one in iteration.rounds if name in one.metrics
    ]
    bars = [
        (number, measured.low, measured.high)
        for number, measured in found
        if measured.low is not None and measured.high is not None
    ]
    return Series(label, [(number, one.value) for number, one in found], intervals=bars)


def _labels(iteration: Iteration) -> Markup:
    points = [
        (float(one.number), float(iteration.labels_spent(one.number))) for one in iteration.rounds
    ]
    return figure(Chart("Labels spent", "round", "pairs", [Series("labels", points)]))


def _table(iteration: Iteration) -> Markup:
    shown = columns_of(iteration)
    head = ["round", "labels", *shown, "outcome", "run"]
    rows = [
        [
            cell(one.number, kind="num"),
            cell(iteration.labels_spent(one.number), kind="num"),
            *(cell(measured_text(one.metrics.get(name)), kind="num") for name in shown.values()),
            cell(badge(outcome_text(one), KINDS[one.outcome]), small=one.reason),
            cell(link(one.run, one.link)),
        ]
        for one in iteration.rounds
    ]
    return table(head, rows, numeric=range(2 + len(shown)))
