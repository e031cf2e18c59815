"""The comparison of runs as one HTML page."""

from datetime import UTC, datetime

from markupsafe import Markup

from flows.report.page import Section, badge, fitting, folded, join, legend, link, page, table
from flows.report.page import cell as td
from flows.report.parts import (
    difference_tables,
    gate_table,
    metric_table,
    sample_table,
    stage_table,
    tiles,
)
from flows.report.picture import picture
from flows.report.plots import plots
from tasks.analysis.comparison import Comparison
from tasks.analysis.lineage_graph import build
from tasks.analysis.metric_rows import MetricRow
from tasks.analysis.run_evidence import RunEvidence

KEY = {
    "reward/accuracy",
    "reward/heldout_loss",
    "sft/heldout_loss",
    "ppo/score_mean",
    "ppo/kl_per_response",
    "dpo/accuracy",
    "eval/kl_per_response",
    "eval/length_policy",
    "eval/length_ratio",
    "eval/repetition_policy",
    "eval/no_eos_policy",
    "eval/alignment_tax",
    "eval/distinct_2_ratio",
    "eval/length_correlation",
}
JUDGED = ("eval/win_rate", "eval/score_", "eval/independent_", "eval/judge_win_rate")


def comparison_page(comparison: Comparison) -> str:
    """The page, under the size limit: sample rows are left out where they would exceed it."""
    return fitting(
        lambda rows: page(_title(comparison), _lead(comparison), _sections(comparison, rows)),
        len(comparison.samples),
    )


def _title(comparison: Comparison) -> str:
    return " vs ".join(comparison.names)


def _lead(comparison: Comparison) -> Markup:
    first = comparison.names[0]
    text = Markup(
        "<p class=dim>{} is the baseline: a difference is the other run minus it. Made {}.</p>"
    )
    return text.format(first, datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))


def _sections(comparison: Comparison, samples: int) -> list[Section]:
    names, runs = comparison.names, comparison.runs
    key = [row for row in comparison.metrics if is_key(row)]
    rest = [row for row in comparison.metrics if not is_key(row)]
    notes = join(Markup("<li>{}</li>").format(note) for note in comparison.cautions)
    metrics = metric_table(names, key) + folded(
        f"{len(rest)} more metrics", metric_table(names, rest)
    )
    return [
        (
            "Outcome",
            run_table(runs)
            + tiles(comparison.win_rates)
            + Markup("<ul class=note>{}</ul>").format(notes),
        ),
        ("What differs", difference_tables(names, comparison.differences)),
        ("Metrics", metrics),
        ("Curves and costs", plots(runs)),
        (
            "Replies to the same prompts",
            sample_table(names, comparison.samples, samples, comparison.scale),
        ),
        ("Stages and gates", stage_table(runs) + join(_gates(run) for run in runs)),
        ("Lineage", picture(build(runs))),
    ]


def is_key(row: MetricRow) -> bool:
    """Whether a metric is shown at once: how the policy was judged, and one or two a stage."""
    return row.metric in KEY or (row.metric.startswith(JUDGED) and not row.metric.endswith("_sft"))


def run_table(runs: list[RunEvidence]) -> Markup:
    """The runs themselves."""
    rows = []
    for run in runs:
        status = badge(
            run.status.lower(), {"FINISHED": "good", "FAILED": "bad"}.get(run.status, "warn")
        )
        commit = f"commit {run.commit[:7]}" + (", with uncommitted changes" if run.dirty else "")
        began = (
            datetime.fromtimestamp(run.started / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
            if run.started
            else ""
        )
        promotion = (run.promotion or {}).get("reason") or run.error or ""
        rows.append(
            [
                td(link(run.name, run.link), small=commit),
                td(status),
                td(run.recipe.get("name", "")),
                td(began),
                td(promotion),
            ]
        )
    colors = legend([run.name for run in runs]) if len(runs) > 1 else Markup("")
    return colors + table(["run", "status", "recipe", "started", "outcome"], rows)


def _gates(run: RunEvidence) -> Markup:
    return folded(f"Gates of {run.name}", gate_table(run.decisions))
