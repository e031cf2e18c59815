"""The report that every pipeline run ends with: its gates, its policy against SFT model and
champion, curves, lineage.
"""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.comparison import is_key, run_table
from flows.report.page import Section, badge, fitting, folded, join, page
from flows.report.parts import (
    difference_tables,
    gate_table,
    metric_table,
    one_run_stages,
    sample_table,
    tiles,
)
from flows.report.picture import picture
from flows.report.plots import plots
from rlhf_core.metrics import METRICS
from tasks.analysis.differences import differences
from tasks.analysis.head_to_head import NAMES, HeadToHead, head_to_head
from tasks.analysis.lineage_graph import Graph, build
from tasks.analysis.metric_rows import BOUNDS, MetricRow
from tasks.analysis.pairing import estimate
from tasks.analysis.run_evidence import RunEvidence


def run_page(
    run: RunEvidence,
    champion: RunEvidence | None = None,
    versions: dict[str, list[str]] | None = None,
) -> str:
    """The page. champion: the run behind the champion, where MLflow has it; versions: model digest
    -> registered versions.
    """
    contests = [
        found for model in ("sft", "champion", "best_of_n") if (found := head_to_head(run, model))
    ]
    most = max((len(contest.samples) for contest in contests), default=0)
    graph = _with_versions(build([run]), versions or {})
    return fitting(
        lambda rows: page(run.name, _lead(run), _sections(run, champion, contests, graph, rows)),
        most,
    )


def _lead(run: RunEvidence) -> Markup:
    refused = [
        decision
        for decision in run.decisions
        if not decision["passed"] and decision.get("severity") != "warning"
    ]
    waits = run.status == "RUNNING"  # the page that a person reads who is asked for approval
    outcome = (
        (run.promotion or {}).get("reason")
        or run.error
        or (run.approval if waits else "No promotion was asked for.")
    )
    promoted = (run.promotion or {}).get("promoted")
    kind = (
        "warn"
        if waits
        else "bad"
        if run.status != "FINISHED"
        else {True: "good", False: "warn"}.get(promoted, "")
    )
    word = "refused" if refused else "waiting" if waits else run.status.lower()
    about = run.recipe.get("description") or ""
    signed = (
        Markup("<p>{}</p>").format(f"Approval: {run.approval}.")
        if run.approval and not waits
        else ""
    )
    return Markup("<p>{} {}</p>{}<p class=dim>{}</p>").format(
        badge(word, kind), outcome, signed, about
    )


def _sections(
    run: RunEvidence,
    champion: RunEvidence | None,
    contests: list[HeadToHead],
    graph: Graph,
    samples: int,
) -> Iterable[Section]:
    yield "Run", run_table([run]) + one_run_stages(run)
    for contest in contests:
        yield f"Policy against the {NAMES[contest.model]}", _contest(contest)
    if champion:
        yield (
            "What differs from the champion's run",
            difference_tables([champion.name, run.name], differences([champion, run])),
        )
    yield "Gates", gate_table(run.decisions)
    yield "Metrics", _metrics(run)
    yield "Curves and costs", plots([run, champion] if champion else [run])
    for contest in contests:
        names = [NAMES[contest.model], NAMES["policy"]]
        yield (
            f"Replies of policy and {names[0]}",
            sample_table(names, contest.samples, samples, _scale(run)),
        )
    yield "Lineage", picture(graph, run.model("policy"))


def _scale(run: RunEvidence) -> str:
    return (
        "this run's reward model"
        if run.stages["evaluate"].input("reward")
        else "the independent scorer"
    )


def _contest(contest: HeadToHead) -> Markup:
    names = [NAMES[contest.model], NAMES["policy"]]
    caution = (
        "Intervals cover the held-out prompts drawn, not the training seed; each verdict is at 95%"
        " on its own."
    )
    return join(
        [
            tiles(contest.win_rates),
            metric_table(names, contest.rows),
            Markup("<p class=note>{}</p>").format(caution),
        ]
    )


def _metrics(run: RunEvidence) -> Markup:
    """Every final metric with its interval, the lesser ones folded away."""
    rows = [
        MetricRow(name, about.unit, about.meaning, [estimate(name, run)], [])
        for name, about in METRICS.items()
        if name in run.metrics and not name.endswith(BOUNDS)
    ]
    key, rest = ([row for row in rows if is_key(row) == wanted] for wanted in (True, False))
    return metric_table([run.name], key) + folded(
        f"{len(rest)} more metrics", metric_table([run.name], rest)
    )


def _with_versions(graph: Graph, versions: dict[str, list[str]]) -> Graph:
    for digest, names in versions.items():
        if digest in graph.nodes:
            graph.nodes[digest].versions += names
    return graph
