"""Metrics of several runs side by side, each later run's value compared with the first run's."""

from dataclasses import dataclass, replace

from rlhf_core.benchmarks.names import parse
from rlhf_core.metrics import METRICS, in_order
from tasks.analysis import significance
from tasks.analysis.comparability import no_common_scale
from tasks.analysis.pairing import estimate, paired_finding
from tasks.analysis.run_evidence import Estimate, RunEvidence
from tasks.analysis.significance import Finding

BOUNDS = ("_lower", "_upper")
COUNTS = {
    "eval/prompts",
    "eval/different_prompts",
    "reward/heldout_pairs",
    "reward/heldout_prompts",
}
HIGHER_IS_BETTER = {
    "reward/accuracy",
    "reward/accuracy_when_shorter",
    "reward/accuracy_over_length",
    "ppo/score_mean",
    "ppo/reward_mean",
    "sft/heldout_improvement",
    "eval/score_policy",
    "eval/score_gain",
    "eval/win_rate",
    "eval/win_rate_vs_champion",
    "eval/independent_policy",
    "eval/independent_gain",
    "ppo/explained_variance",
}
LOWER_IS_BETTER = {
    "sft/heldout_loss",
    "reward/heldout_loss",
    "reward/calibration_error",
    "eval/repetition_policy",
    "eval/repetition_increase",
    "eval/no_eos_policy",
    "eval/heldout_loss_policy",
    "eval/alignment_tax",
}


@dataclass(frozen=True)
class MetricRow:
    """One metric: its estimate in each run, and each later run's finding against the first."""

    metric: str
    unit: str
    meaning: str
    values: list[Estimate | None]  # None: not measured in that run
    against: list[Finding]


def metric_rows(runs: list[RunEvidence]) -> list[MetricRow]:
    """Return a row per final metric."""
    return [_row(name, runs) for name in metric_names(runs)]


def metric_names(runs: list[RunEvidence]) -> list[str]:
    """Return the final metrics of the runs in the order of METRICS, without bounds and counts."""
    found = {name for run in runs for name in run.metrics} - COUNTS
    known = in_order(found)
    names = [*known, *sorted(found - set(known))]
    return [name for name in names if not name.endswith(BOUNDS)]


def _row(metric: str, runs: list[RunEvidence]) -> MetricRow:
    about = METRICS.get(metric)
    unit, meaning = (about.unit, about.meaning) if about else ("", "")
    values = [estimate(metric, run) for run in runs]
    against = [with_better_side(metric, finding(metric, runs[0], run)) for run in runs[1:]]
    return MetricRow(metric, unit, meaning, values, against)


def with_better_side(metric: str, found: Finding) -> Finding:
    """Return the finding with the better side marked.

    It stays unmarked where it is not significant, and for a metric of which neither side is better.
    """
    if found.verdict != "significant" or found.difference is None:
        return found
    benchmark = parse(metric)
    is_higher_better = metric in HIGHER_IS_BETTER or bool(benchmark and benchmark.is_share)
    if not is_higher_better and metric not in LOWER_IS_BETTER:
        return found
    return replace(found, better=(found.difference > 0) == is_higher_better)


def finding(metric: str, first: RunEvidence, second: RunEvidence) -> Finding:
    """Compare one metric of two runs: the difference second - first and its verdict."""
    ours, theirs = second.metrics.get(metric), first.metrics.get(metric)
    if ours is None or theirs is None:
        lacking = first if theirs is None else second
        return Finding("missing", note=f"not measured in {lacking.name}")
    if same_stage_run(metric, first, second):
        note = "the same finished stage serves both runs"
        return Finding("identical", ours.value - theirs.value, note=note)
    if reason := no_common_scale(metric, first, second):
        return Finding("not comparable", note=reason)
    return paired_finding(metric, first, second) or _unpaired(metric, first, second)


def _unpaired(metric: str, first: RunEvidence, second: RunEvidence) -> Finding:
    found = significance.unpaired(first.metrics[metric], second.metrics[metric])
    stage = metric.partition("/")[0]
    if first.heldout(stage) == second.heldout(stage):
        return found
    notes = filter(None, [found.note, "measured on two different held-out sets"])
    return replace(found, note="; ".join(notes))


def same_stage_run(metric: str, first: RunEvidence, second: RunEvidence) -> bool:
    """Check that one finished stage gave the metric of both runs."""
    digests = []
    for run in (first, second):
        stage = next(
            stage for stage in run.stages.values() if metric in stage.result.get("metrics", {})
        )
        digests.append(stage.result.get("digest") or object())
    return digests[0] == digests[1]
