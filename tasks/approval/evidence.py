"""The text that a person reads before answering: gates, metrics, and where to read on."""

from rlhf_core.metrics import METRICS
from rlhf_core.rundir import StageResult
from rlhf_core.stage_catalogue import ALIGNED_WITHOUT_REWARD
from tasks.registration import rival
from tasks.run_context import RunContext, StageOutput
from tasks.tracking import rendering
from tasks.tracking.client import report_link, version_page


def evidence(context: RunContext, evaluation: StageOutput, *, by_account: bool) -> str:
    """Return Markdown: the model and its rival, verdicts, metrics with intervals, links.

    by_account: the answer must come from an account of MLflow's server.
    """
    policy, other = evaluation.artifacts["policy"], rival(evaluation)
    lines = [
        f"## May this policy be promoted? {context.record.name}",
        f"Policy `{policy.digest[:12]}` of recipe **{context.recipe.name}**, "
        + (
            f"to replace champion `{other.digest[:12]}`."
            if other
            else "with no champion to replace."
        ),
        _pages(context),
        "### Gates",
        rendering.short_verdict_table(context.record.decisions),
    ]
    for stage in ("evaluate", *ALIGNED_WITHOUT_REWARD, "reward"):
        if result := evaluation.results.get(stage):
            lines += [f"### Metrics of {stage}", _metric_table(result)]
    command = f"`rlhf approve {context.record.name}`"
    where = "with an approver's account of MLflow's server" if by_account else "here, or"
    lines.append(f"Approve or reject {where}: {command}")
    return "\n\n".join(lines)


def _pages(context: RunContext) -> str:
    """Link the report with curves and replies, the run, and the version with its card."""
    record, link = context.record, context.tracker.link()
    version = next(
        (item for item in record.registrations if item.kind == "policy" and item.version), None
    )
    links = (
        [f"[report]({report_link(record)})"]
        if report_link(record) and not context.tracker.problem
        else []
    )
    links += [f"[MLflow]({link})"] if link else []
    links += (
        [f"[{version.model} {version.version}]({version_page(record, version)})"] if version else []
    )
    text = (
        "All evidence: " + ", ".join(links) + "."
        if links
        else "MLflow did not answer when this was written."
    )
    return text + (
        f" The report is also `{record.report}` on the machine of the run." if record.report else ""
    )


def _metric_table(result: StageResult) -> str:
    rows = ["| metric | value | 95% interval | n | unit | meaning |\n|---|---|---|---|---|---|"]
    for name, value in result.metrics.items():
        low, high = result.intervals.get(name, (None, None))
        interval = f"{low:.3g} to {high:.3g}" if low is not None else ""
        declared, n = METRICS[name], result.counts.get(name, "")
        rows.append(
            f"| {name} | {value:.4g} | {interval} | {n} | {declared.unit} | {declared.meaning} |"
        )
    return "\n".join(rows)
