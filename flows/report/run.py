"""The HTML report at the end of every pipeline run.

It shows the gates, the policy head to head with SFT model and champion, curves and lineage.
"""

from collections.abc import Iterable

from markupsafe import Markup

from flows.report.comparison import is_key, run_table
from flows.report.comparison_tables import difference_tables, metric_table, sample_table, tiles
from flows.report.judge import judge_part
from flows.report.page import Section, badge, fitting, folded, join, page
from flows.report.picture import picture
from flows.report.plots import plots
from flows.report.stage_tables import gate_table, one_run_stages
from rlhf_core.metrics import METRICS, in_order
from tasks.analysis.comparison import TOGETHER
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
    """Return the page.

    champion: the run that made the champion, where MLflow has it. versions: model digest ->
    registered versions.
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
    promotion = run.promotion or {}
    outcome = (
        promotion.get("reason")
        or run.error
        or (run.approval if _waits(run) else "No promotion was asked for.")
    )
    about = run.recipe.get("description") or ""
    signed = Markup("")
    if run.approval and not _waits(run):
        signed = Markup("<p>{}</p>").format(f"Approval: {run.approval}.")
    return Markup("<p>{} {}</p>{}<p class=dim>{}</p>").format(
        _outcome_badge(run, promotion.get("promoted")), outcome, signed, about
    )


def _outcome_badge(run: RunEvidence, promoted: bool | None) -> Markup:
    if _waits(run):
        kind = "warn"
    elif run.status != "FINISHED":
        kind = "bad"
    else:
        kind = "" if promoted is None else "good" if promoted else "warn"
    word = "waiting" if _waits(run) else run.status.lower()
    return badge("refused" if _was_refused(run) else word, kind)


def _waits(run: RunEvidence) -> bool:
    """Check that the page is the evidence for an approval that the run waits for."""
    return run.status == "RUNNING"


def _was_refused(run: RunEvidence) -> bool:
    return any(
        not decision["passed"] and decision.get("severity") != "warning"
        for decision in run.decisions
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
    if judged := judge_part(run.metrics):
        yield "Judge", judged
    if champion:
        yield (
            "What differs from the champion's run",
            difference_tables([champion.name, run.name], differences([champion, run])),
        )
    yield "Gates", gate_table(run.verdicts)
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
    if run.stages["evaluate"].input("reward"):
        return "this run's reward model"
    return "the independent scorer"


def _contest(contest: HeadToHead) -> Markup:
    names = [NAMES[contest.model], NAMES["policy"]]
    caution = f"Intervals cover the held-out prompts drawn, not the training seed. {TOGETHER}"
    return join(
        [
            tiles(contest.win_rates),
            metric_table(names, contest.rows),
            Markup("<p class=note>{}</p>").format(caution),
        ]
    )


def _metrics(run: RunEvidence) -> Markup:
    """Return every final metric with its interval, the secondary ones folded away."""
    rows = [
        MetricRow(name, METRICS[name].unit, METRICS[name].meaning, [estimate(name, run)], [])
        for name in in_order(run.metrics)
        if not name.endswith(BOUNDS)
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
