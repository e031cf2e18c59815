"""The HTML page of a comparison of runs."""

from datetime import UTC, datetime

from markupsafe import Markup

from flows.report.comparison_tables import difference_tables, metric_table, sample_table, tiles
from flows.report.page import Section, badge, cell, fitting, folded, join, legend, link, page, table
from flows.report.picture import picture
from flows.report.plots import plots
from flows.report.seed_table import seed_table
from flows.report.stage_tables import gate_table, stage_table
from tasks.analysis.comparison import Comparison
from tasks.analysis.lineage_graph import build
from tasks.analysis.metric_rows import MetricRow
from tasks.analysis.run_evidence import RunEvidence
from tasks.analysis.seed_groups import SeedRow
from tasks.records.provenance import short_commit

KEY = {
    "reward/accuracy",
    "reward/heldout_loss",
    "sft/heldout_loss",
    "ppo/score_mean",
    "ppo/kl_per_response",
    "dpo/accuracy",
    "kto/auc",
    "eval/kl_per_response",
    "eval/length_policy",
    "eval/length_ratio",
    "eval/repetition_policy",
    "eval/no_eos_policy",
    "eval/alignment_tax",
    "eval/distinct_2_ratio",
    "eval/distinct_2_cut_ratio",
    "eval/first_word_share",
    "eval/prompt_retrieval",
    "eval/length_correlation",
}
MINUTE = "%Y-%m-%d %H:%M UTC"
JUDGED = ("eval/win_rate", "eval/score_", "eval/independent_", "eval/judge_win_rate")


def comparison_page(comparison: Comparison) -> str:
    """Return the page; sample rows are left out where they would exceed the size limit."""
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
    return text.format(first, datetime.now(UTC).strftime(MINUTE))


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
        *_seeds(comparison),
        ("Curves and costs", plots(runs)),
        (
            "Replies to the same prompts",
            sample_table(names, comparison.samples, samples, comparison.scale),
        ),
        ("Stages and gates", stage_table(runs) + join(_gates(run) for run in runs)),
        ("Lineage", picture(build(runs))),
    ]


def _seeds(comparison: Comparison) -> list[Section]:
    """Return the section with the metrics over seeds; none where each run is alone."""
    if not comparison.seed_groups:
        return []
    names = [group.name for group in comparison.seed_groups]
    key, rest = (
        [row for row in comparison.seed_metrics if is_key(row) == wanted]
        for wanted in (True, False)
    )
    tables = seed_table(names, key) + folded(f"{len(rest)} more metrics", seed_table(names, rest))
    return [("Over seeds", tables)]


def is_key(row: MetricRow | SeedRow) -> bool:
    """Check that a metric is shown unfolded: judgements of the policy, one or two per stage."""
    return row.metric in KEY or (row.metric.startswith(JUDGED) and not row.metric.endswith("_sft"))


def run_table(runs: list[RunEvidence]) -> Markup:
    """Return a table of the runs with status, recipe, start and outcome."""
    colors = legend([run.name for run in runs]) if len(runs) > 1 else Markup("")
    head = ["run", "status", "recipe", "started", "outcome"]
    return colors + table(head, map(_run_cells, runs))


def _run_cells(run: RunEvidence) -> list[Markup]:
    kind = {"FINISHED": "good", "FAILED": "bad"}.get(run.status, "warn")
    commit = f"commit {short_commit(run.commit)}" + (
        ", with uncommitted changes" if run.dirty else ""
    )
    began = datetime.fromtimestamp(run.started / 1000, UTC) if run.started else None
    return [
        cell(link(run.name, run.link), small=commit),
        cell(badge(run.status.lower(), kind)),
        cell(run.recipe.get("name", "")),
        cell(began.strftime(MINUTE) if began else ""),
        cell((run.promotion or {}).get("reason") or run.error or ""),
    ]


def _gates(run: RunEvidence) -> Markup:
    return folded(f"Gates of {run.name}", gate_table(run.verdicts))
