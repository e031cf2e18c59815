"""Runs beside each other: what differs, every metric with its interval and whether the difference
is beyond noise, replies.

The first run is the baseline; each other one is held against it. Nothing is compared that has no
common scale: scores of two reward models, KL from two SFT models, accuracy on two held-out sets.
The row then says so.
"""

from dataclasses import asdict, dataclass, replace

from rlhf_core.metrics import METRICS
from tasks.analysis import significance
from tasks.analysis.differences import Difference, differences
from tasks.analysis.pairing import estimate, joined, paired_finding, same_judge, same_scorer
from tasks.analysis.run_evidence import STAGE_ORDER, Estimate, RunEvidence
from tasks.analysis.significance import Finding

BOUNDS = ("_lower", "_upper")
COUNTS = {"eval/prompts", "reward/heldout_pairs"}
HIGHER = {
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
LOWER = {
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
    """One metric: its estimate in each run (None: not measured), and each later run's finding
    against the first.
    """

    metric: str
    unit: str
    meaning: str
    values: list[Estimate | None]
    against: list[Finding]


@dataclass(frozen=True)
class WinRate:
    """How often a run's reply is the better one of two to the same prompt; a tie counts one half."""

    run: str
    over: str
    judge: str  # 'reward model', 'independent scorer' or 'judge'
    finding: Finding


@dataclass(frozen=True)
class ReplySample:
    """One prompt and each run's reply. difference: second run's score - first's, None without a
    common scale.
    """

    prompt: str
    replies: list[str]
    scores: list[float | None]
    tokens: list[int | None]
    difference: float | None


@dataclass(frozen=True)
class Comparison:
    """The whole comparison; scale: what `Sample.scores` are scores of."""

    runs: list[RunEvidence]
    differences: dict[str, list[Difference]]
    win_rates: list[WinRate]
    metrics: list[MetricRow]
    samples: list[ReplySample]
    scale: str
    cautions: list[str]

    @property
    def names(self) -> list[str]:
        return [run.name for run in self.runs]


def compare(runs: list[RunEvidence]) -> Comparison:
    """Compare two runs or more with the first one. Runs of one name are numbered."""
    runs = _told_apart(runs)
    samples, scale = _samples(runs)
    return Comparison(
        runs,
        differences(runs),
        _win_rates(runs),
        [_row(name, runs) for name in _names(runs)],
        samples,
        scale,
        _cautions(runs),
    )


def _told_apart(runs: list[RunEvidence]) -> list[RunEvidence]:
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({place})") if names.count(run.name) > 1 else run
        for place, run in enumerate(runs, 1)
    ]


def _names(runs: list[RunEvidence]) -> list[str]:
    """Every final metric in the order of METRICS; bounds and counts stand beside their metric."""
    found = {name for run in runs for name in run.metrics} - COUNTS
    known = [name for name in METRICS if name in found]
    return [name for name in [*known, *sorted(found - set(known))] if not name.endswith(BOUNDS)]


def _row(metric: str, runs: list[RunEvidence]) -> MetricRow:
    about = METRICS.get(metric)
    values = [estimate(metric, run) for run in runs]
    against = [judged(metric, finding(metric, runs[0], run)) for run in runs[1:]]
    return MetricRow(
        metric, about.unit if about else "", about.meaning if about else "", values, against
    )


def judged(metric: str, found: Finding) -> Finding:
    """The finding with the side that is better, where it is beyond noise and the metric has a good
    side.
    """
    if found.verdict != "beyond noise" or metric not in HIGHER | LOWER:
        return found
    return replace(found, better=(found.difference > 0) == (metric in HIGHER))


def finding(metric: str, first: RunEvidence, second: RunEvidence) -> Finding:
    """What second - first is worth in one metric."""
    ours, theirs = second.metrics.get(metric), first.metrics.get(metric)
    if ours is None or theirs is None:
        return Finding(
            "missing", note=f"not measured in {(first if theirs is None else second).name}"
        )
    if _same_stage_run(metric, first, second):
        return Finding(
            "identical", ours.value - theirs.value, note="the same finished stage serves both runs"
        )
    if reason := _no_common_scale(metric, first, second):
        return Finding("not comparable", note=reason)
    if found := paired_finding(metric, first, second):
        return found
    found, stage = significance.unpaired(theirs, ours), metric.partition("/")[0]
    if first.heldout(stage) != second.heldout(stage):
        found = replace(
            found,
            note="; ".join(filter(None, [found.note, "measured on two different held-out sets"])),
        )
    return found


def _same_stage_run(metric: str, first: RunEvidence, second: RunEvidence) -> bool:
    digests = []
    for run in (first, second):
        stage = next(
            stage for stage in run.stages.values() if metric in stage.result.get("metrics", {})
        )
        digests.append(stage.result.get("digest") or object())
    return digests[0] == digests[1]


def _no_common_scale(metric: str, first: RunEvidence, second: RunEvidence) -> str | None:
    """Why two values of a metric cannot be held against each other; None when they can."""
    scored = (
        "eval/score",
        "eval/reward_",
        "eval/length_correlation",
        "eval/kl_per_reward",
        "eval/win_rate",
        "ppo/score",
        "ppo/reward_mean",
        "ppo/value_loss",
        "ppo/critic",
    )
    relative = (
        "eval/kl",
        "ppo/kl",
        "eval/score_gain",
        "eval/win_rate",
        "eval/alignment_tax",
        "eval/independent_gain",
        "eval/judge_win_rate",
        "dpo/",
        "eval/length_ratio",
        "eval/repetition_increase",
    )
    other = {
        name: not _equal(name, first, second) for name in ("reward", "sft", "base", "champion")
    }
    if metric.startswith(scored) and other["reward"]:
        return "scored by two different reward models, whose scores have no common scale"
    if (
        metric.startswith(scored)
        and first.model("reward") is None
        and not same_scorer(first, second)
    ):
        return "scored by two different independent scorers"
    if metric.startswith(relative) and other["sft"]:
        return "measured from two different SFT models"
    if metric.startswith("eval/win_rate_vs_champion") and other["champion"]:
        return "won against two different champions"
    if metric.startswith("eval/judge") and not same_judge(first, second):
        return "two different judges"
    if metric.startswith("eval/independent") and not same_scorer(first, second):
        return "two different independent scorers"
    if "heldout_loss" in metric and metric.startswith(("sft/", "eval/")) and other["base"]:
        return "two different base models: nats per token compare only under one tokenizer"
    if metric.startswith(("reward/heldout_margin", "reward/score")) and other["reward"]:
        return "two reward models' scores have no common scale"
    return None


def _equal(model: str, first: RunEvidence, second: RunEvidence) -> bool:
    return first.model(model) == second.model(model)


def _win_rates(runs: list[RunEvidence]) -> list[WinRate]:
    win_rates = []
    for run in runs[1:]:
        pairs = joined(runs[0], run)
        for judge, column, fair in (
            ("reward model", "policy_score", _equal("reward", runs[0], run)),
            ("independent scorer", "policy_independent", same_scorer(runs[0], run)),
        ):
            if fair and pairs and pairs.has(column):
                theirs, ours = pairs.columns(column)
                win_rates.append(
                    WinRate(run.name, runs[0].name, judge, significance.win_rate(ours, theirs))
                )
    return win_rates


def _samples(runs: list[RunEvidence]) -> tuple[list[ReplySample], str]:
    """The prompts that every run answered, with replies; sorted by reward difference, the largest
    first.
    """
    pairs = joined(*runs)
    if not pairs:
        return [], ""
    if all(_equal("reward", runs[0], run) for run in runs):
        column, scale = "policy_score", "reward-model score"
    elif all(same_scorer(runs[0], run) for run in runs) and pairs.has("policy_independent"):
        column, scale = "policy_independent", "independent score (the reward models differ)"
    else:
        column, scale = (
            "policy_score",
            "each run's own reward-model score; they have no common scale",
        )
    comparable = "no common scale" not in scale
    values = zip(
        pairs.columns("prompt")[0],
        *(
            zip(*pairs.columns(name), strict=True)
            for name in ("policy_reply", column, "policy_tokens")
        ),
        strict=True,
    )
    rows = [
        ReplySample(
            prompt,
            list(replies),
            list(scores),
            list(tokens),
            scores[1] - scores[0] if comparable else None,
        )
        for prompt, replies, scores, tokens in values
    ]
    return sorted(rows, key=lambda row: -(row.difference or 0.0)), scale


def _cautions(runs: list[RunEvidence]) -> list[str]:
    """What a reader must know before believing the table."""
    notes = [
        "Intervals cover the held-out items drawn, not the training seed: one training run stands"
        " behind each column. Each verdict is at 95% on its own, not corrected for the number of"
        " metrics."
    ]
    for run in runs[1:]:
        both = f"{runs[0].name} and {run.name}"
        if not _equal("reward", runs[0], run) and runs[0].model("reward") and run.model("reward"):
            notes.append(
                f"{both} have different reward models: their scores and win rates are not held"
                " against each other."
            )
        if not _equal("sft", runs[0], run) and runs[0].model("sft") and run.model("sft"):
            notes.append(
                f"{both} have different SFT models: KL, gains and alignment tax are measured from"
                " different points."
            )
        if runs[0].items("evaluate") is None or run.items("evaluate") is None:
            if "evaluate" in runs[0].stages and "evaluate" in run.stages:
                notes.append(
                    f"No per-item evidence in {both} for the evaluation: nothing there is paired by"
                    " prompt."
                )
        elif not (pairs := joined(runs[0], run)):
            notes.append(f"{both} answered no prompt in common.")
        elif pairs.size < max(
            len(runs[0].items("evaluate")["prompt_id"]), len(run.items("evaluate")["prompt_id"])
        ):
            notes.append(f"{both}: paired on the {pairs.size} held-out prompts that both answered.")
    return notes


def as_json(comparison: Comparison) -> dict:
    """The comparison as JSON values: what `rlhf compare --json` prints."""
    return {
        "baseline": comparison.names[0],
        "runs": [_run_json(run) for run in comparison.runs],
        "differences": {
            name: [asdict(row) for row in rows] for name, rows in comparison.differences.items()
        },
        "duels": [asdict(win_rate) for win_rate in comparison.win_rates],
        "metrics": [asdict(row) for row in comparison.metrics],
        "samples": {
            "scores": comparison.scale,
            "rows": [asdict(row) for row in comparison.samples],
        },
        "cautions": comparison.cautions,
    }


def _run_json(run: RunEvidence) -> dict:
    return {
        "name": run.name,
        "run_id": run.run_id,
        "mlflow": run.link,
        "status": run.status,
        "recipe": run.recipe.get("name"),
        "commit": run.commit,
        "started": run.started,
        "models": {name: run.model(name) for name in ("sft", "reward", "policy")},
        "verdicts": {name: run.stages[name].verdict for name in STAGE_ORDER if name in run.stages},
        "costs": {name: run.stages[name].costs for name in STAGE_ORDER if name in run.stages},
    }
