"""Comparison of runs: differences of their inputs, metrics with significance, win rates, replies.

The first run is the baseline; each other run is compared with it. Values without a common scale are
not compared: scores by two reward models, KL from two SFT models, accuracy on two held-out sets.
Their row gives the reason.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace

from tasks.analysis import significance
from tasks.analysis.comparability import same_model, same_scorer
from tasks.analysis.differences import Difference, differences
from tasks.analysis.metric_rows import MetricRow, metric_rows
from tasks.analysis.pairing import JoinedItems, join_evaluations
from tasks.analysis.run_evidence import STAGE_ORDER, RunEvidence
from tasks.analysis.seed_groups import SeedGroup, SeedRow, seed_groups, seed_rows
from tasks.analysis.significance import Finding


@dataclass(frozen=True)
class WinRate:
    """Share of prompts at which a run's reply is better than another's; a tie counts one half."""

    run: str
    over: str
    judge: str  # 'reward model', 'independent scorer' or 'judge'
    finding: Finding


@dataclass(frozen=True)
class ReplySample:
    """One prompt with each run's reply."""

    prompt: str
    replies: list[str]
    scores: list[float | None]
    tokens: list[int | None]
    difference: float | None  # second run's score - first run's; None without a common scale


@dataclass(frozen=True)
class Comparison:
    """The whole comparison."""

    runs: list[RunEvidence]
    differences: dict[str, list[Difference]]
    win_rates: list[WinRate]
    metrics: list[MetricRow]
    samples: list[ReplySample]
    scale: str  # the scale of ReplySample.scores
    cautions: list[str]
    seed_groups: list[SeedGroup]  # none where no two runs differ in their seed alone
    seed_metrics: list[SeedRow]

    @property
    def names(self) -> list[str]:
        """The names of the runs, the baseline first."""
        return [run.name for run in self.runs]


def compare(runs: list[RunEvidence]) -> Comparison:
    """Compare each later run with the first one. Runs that share a name are numbered."""
    runs = _with_unique_names(runs)
    samples, scale = _samples(runs)
    rows, win_rates = made_together(metric_rows(runs), _win_rates(runs))
    groups = seed_groups(runs)
    return Comparison(
        runs,
        differences(runs),
        win_rates,
        rows,
        samples,
        scale,
        [*_cautions(runs), *_seed_cautions(groups)],
        groups,
        seed_rows(groups),
    )


def made_together(
    rows: list[MetricRow], win_rates: list[WinRate]
) -> tuple[list[MetricRow], list[WinRate]]:
    """Return the rows and win rates with their verdicts corrected for the number of all of them."""
    found = [finding for row in rows for finding in row.against]
    found += [win_rate.finding for win_rate in win_rates]
    corrected = iter(significance.corrected(found))
    return (
        [replace(row, against=[next(corrected) for _ in row.against]) for row in rows],
        [replace(win_rate, finding=next(corrected)) for win_rate in win_rates],
    )


TOGETHER = (
    "Of the differences that a table and its win rates call significant, at most 5% are expected to"
    " be false: their p-values are corrected together (Benjamini and Hochberg). Each interval is of"
    " 95% on its own."
)


def _with_unique_names(runs: list[RunEvidence]) -> list[RunEvidence]:
    names = [run.name for run in runs]
    return [
        replace(run, name=f"{run.name} ({place})") if names.count(run.name) > 1 else run
        for place, run in enumerate(runs, 1)
    ]


def _win_rates(runs: list[RunEvidence]) -> list[WinRate]:
    win_rates = []
    for run in runs[1:]:
        pairs = join_evaluations(runs[0], run)
        for judge, column, fair in (
            ("reward model", "policy_score", same_model("reward", runs[0], run)),
            ("independent scorer", "policy_independent", same_scorer(runs[0], run)),
        ):
            if fair and pairs and pairs.has(column):
                theirs, ours = pairs.columns(column)
                found = significance.win_rate(ours, theirs, pairs.clusters)
                win_rates.append(WinRate(run.name, runs[0].name, judge, found))
    return win_rates


def _samples(runs: list[RunEvidence]) -> tuple[list[ReplySample], str]:
    """Return the replies to the prompts that every run answered, and the scale of their scores.

    They are sorted by score difference, the largest first.
    """
    pairs = join_evaluations(*runs)
    if not pairs:
        return [], ""
    column, scale, comparable = _scale(runs, pairs)
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


def _scale(runs: list[RunEvidence], pairs: JoinedItems) -> tuple[str, str, bool]:
    """Return the column of the scores, their scale in words, and True if they are comparable."""
    if all(same_model("reward", runs[0], run) for run in runs):
        return "policy_score", "reward-model score", True
    if all(same_scorer(runs[0], run) for run in runs) and pairs.has("policy_independent"):
        return "policy_independent", "independent score (the reward models differ)", True
    return "policy_score", "each run's own reward-model score; they have no common scale", False


def _cautions(runs: list[RunEvidence]) -> Iterator[str]:
    """Yield the limits of the comparison that a reader must know."""
    yield (
        "Intervals of single runs cover the held-out items drawn, not the training seed: one"
        " training run stands behind each column."
    )
    yield TOGETHER
    for run in runs[1:]:
        both = f"{runs[0].name} and {run.name}"
        if _have_different("reward", runs[0], run):
            yield (
                f"{both} have different reward models: their scores and win rates are not compared."
            )
        if _have_different("sft", runs[0], run):
            yield (
                f"{both} have different SFT models: KL, gains and alignment tax are measured from"
                " different points."
            )
        if caution := _pairing_caution(both, runs[0], run):
            yield caution


def _seed_cautions(groups: list[SeedGroup]) -> Iterator[str]:
    for group in groups:
        if len(group.runs) > 1:
            names = ", ".join(run.name for run in group.runs)
            yield (
                f"{names} differ in the seed alone and are one group: what differs between them is"
                " the seed's doing. Compare groups by the table of seeds."
            )


def _have_different(model: str, first: RunEvidence, second: RunEvidence) -> bool:
    known = first.model(model) and second.model(model)
    return bool(known) and not same_model(model, first, second)


def _pairing_caution(both: str, first: RunEvidence, second: RunEvidence) -> str | None:
    """Return what limits the pairing by prompt; None when every prompt is in both runs."""
    ours, theirs = first.items("evaluate"), second.items("evaluate")
    if ours is None or theirs is None:
        if "evaluate" in first.stages and "evaluate" in second.stages:
            return (
                f"No per-item evidence in {both} for the evaluation: nothing there is paired by"
                " prompt."
            )
        return None
    pairs = join_evaluations(first, second)
    if not pairs:
        return f"{both} answered no prompt in common."
    if pairs.size < max(len(ours["prompt_id"]), len(theirs["prompt_id"])):
        return f"{both}: paired on the {pairs.size} held-out prompts that both answered."
    return None


def as_json(comparison: Comparison) -> dict:
    """Return the comparison as the JSON values that `rlhf compare --json` prints."""
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
        "seed_groups": [
            {"name": group.name, "seeds": group.seeds, "runs": [run.name for run in group.runs]}
            for group in comparison.seed_groups
        ],
        "seed_metrics": [asdict(row) for row in comparison.seed_metrics],
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
