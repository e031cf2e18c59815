"""The policy head to head with another model, on the prompts of its own run's evaluation."""

from dataclasses import dataclass

from rlhf_core.evidence.items import Columns
from rlhf_core.statistics.p_values import of_interval
from tasks.analysis import significance
from tasks.analysis.comparison import ReplySample, WinRate, made_together
from tasks.analysis.metric_rows import MetricRow, with_better_side
from tasks.analysis.pairing import clusters_in
from tasks.analysis.run_evidence import Estimate, RunEvidence, StageEvidence
from tasks.analysis.significance import Finding

NAMES = {
    "sft": "SFT model",
    "champion": "champion",
    "best_of_n": "best of n replies by the SFT model",
    "policy": "policy",
}
JUDGES = {"score": "reward model", "independent": "independent scorer"}
_PROMPT = {"prompt_id", "prompt"}
NO_ITEMS = "no per-item evidence"


@dataclass(frozen=True)
class HeadToHead:
    """The policy (second column) compared with another model (first column)."""

    model: str  # sft, champion or best_of_n
    rows: list[MetricRow]
    win_rates: list[WinRate]
    samples: list[ReplySample]


@dataclass(frozen=True)
class _Measure:
    """One measure of both models' replies."""

    column: str  # of the items, without the model's name
    policy_metric: str
    sft_metric: str
    name: str
    unit: str
    meaning: str


_MEASURES = (
    _Measure(
        "score",
        "eval/score_policy",
        "eval/score_sft",
        "Reward",
        "score",
        "Mean score by the reward model",
    ),
    _Measure(
        "independent",
        "eval/independent_policy",
        "eval/independent_sft",
        "Independent",
        "score",
        "Mean of the independent scorer",
    ),
    _Measure(
        "tokens",
        "eval/length_policy",
        "eval/length_sft",
        "Length",
        "tokens",
        "Mean reply length, EOS included",
    ),
    _Measure(
        "repetition",
        "eval/repetition_policy",
        "eval/repetition_sft",
        "Repetition",
        "share",
        "Repeated 3-grams / 3-grams, mean",
    ),
    _Measure(
        "cut",
        "eval/no_eos_policy",
        "eval/no_eos_sft",
        "Cut replies",
        "share",
        "Replies cut at the length limit",
    ),
)


def head_to_head(run: RunEvidence, model: str) -> HeadToHead | None:
    """Compare the policy of `run` with its SFT model, champion or best of n.

    None when the evaluation had no such model.
    """
    stage = run.stages.get("evaluate")
    if stage is None or not stage.result or not _took_part(stage, model):
        return None
    items = stage.items
    if items is None or f"{model}_score" not in items:
        recorded = made_together(_recorded_rows(run, model), _recorded_win_rates(run, model))
        return HeadToHead(model, *recorded, _samples(stage.samples or {}, model))
    # without a reward model the score is the independent scorer's
    scorer_only = stage.input("reward") is None and _has(items, model, "independent")
    measures = [one for one in _MEASURES if not (scorer_only and one.column == "score")]
    rows = [row for measure in measures if (row := _row(items, model, measure))]
    win_rates = [*_win_rates(items, model, measures), *_judge_win_rates(items, model)]
    return HeadToHead(model, *made_together(rows, win_rates), _samples(items, model))


def _took_part(stage: StageEvidence, model: str) -> bool:
    if model == "best_of_n":  # drawn from the SFT model, no input of its own
        return stage.items is not None and "best_of_n_score" in stage.items
    return stage.input(model) is not None


def _has(items: Columns, model: str, column: str) -> bool:
    return all(f"{name}_{column}" in items for name in ("policy", model))


def _row(items: Columns, model: str, measure: _Measure) -> MetricRow | None:
    is_cut = measure.column == "cut"
    source = "ended" if is_cut else measure.column
    if not _has(items, model, source):
        return None
    sides = [items[f"{name}_{source}"] for name in (model, "policy")]
    if is_cut:
        sides = [[not ended for ended in side] for side in sides]
    before, after = map(significance.terms, sides)
    found = with_better_side(
        measure.policy_metric,
        significance.paired(before, after, share=is_cut, clusters=clusters_in(items)),
    )
    means = [significance.mean(side, clusters_in(items)) for side in sides]
    return MetricRow(measure.name, measure.unit, measure.meaning, [*means], [found])


def _win_rates(items: Columns, model: str, measures: list[_Measure]) -> list[WinRate]:
    columns = [one.column for one in measures if one.column in JUDGES]
    return [
        _win_rate(
            model,
            JUDGES[column],
            significance.win_rate(
                items[f"policy_{column}"], items[f"{model}_{column}"], clusters_in(items)
            ),
        )
        for column in columns
        if _has(items, model, column)
    ]


def _judge_win_rates(items: Columns, model: str) -> list[WinRate]:
    """Return the win rate by the configured judge (rlhf_core/judging/judge.py), if it was asked."""
    asked = items.get(f"judge_vs_{model}", [])
    judged = [place for place, outcome in enumerate(asked) if outcome is not None]
    if not judged:
        return []
    prompts = clusters_in({name: [items[name][i] for i in judged] for name in _PROMPT & {*items}})
    found = significance.win_rate([asked[i] for i in judged], [0.5] * len(judged), prompts)
    return [_win_rate(model, "judge", found)]


def _win_rate(model: str, judge: str, found: Finding) -> WinRate:
    return WinRate(NAMES["policy"], NAMES[model], judge, found)


def _recorded_rows(run: RunEvidence, model: str) -> list[MetricRow]:
    """Return the means that an older run recorded without items."""
    if model != "sft":
        return []
    return [row for measure in _MEASURES if (row := _recorded_row(run.metrics, measure))]


def _recorded_row(metrics: dict[str, Estimate], measure: _Measure) -> MetricRow | None:
    ours, theirs = metrics.get(measure.policy_metric), metrics.get(measure.sft_metric)
    if ours is None or theirs is None:
        return None
    gain = metrics.get("eval/independent_gain") if measure.column == "independent" else None
    found = with_better_side(
        measure.policy_metric, _gain(gain) if gain else significance.unpaired(theirs, ours)
    )
    return MetricRow(measure.name, measure.unit, measure.meaning, [theirs, ours], [found])


def _gain(gain: Estimate) -> Finding:
    if gain.interval is None:
        return Finding("no interval", gain.value, note=NO_ITEMS)
    verdict = significance.verdict_on(*gain.interval)
    p = of_interval(gain.value, *gain.interval)
    method = "as the evaluation recorded it"
    return Finding(verdict, gain.value, *gain.interval, gain.n, method, p_value=p)


def _recorded_win_rates(run: RunEvidence, model: str) -> list[WinRate]:
    rate = run.metrics.get("eval/win_rate" if model == "sft" else "eval/win_rate_vs_champion")
    if rate is None:
        return []
    found = significance.rate(rate, "Wilson interval, as recorded", NO_ITEMS)
    return [_win_rate(model, JUDGES["score"], found)]


def _samples(items: Columns, model: str) -> list[ReplySample]:
    """Return both models' replies to each prompt, the largest score difference first."""
    if not all(_has(items, model, column) for column in ("reply", "score")):
        return []
    sides = (model, "policy")
    replies = zip(*(items[f"{name}_reply"] for name in sides), strict=True)
    scores = list(zip(*(items[f"{name}_score"] for name in sides), strict=True))
    missing = [None] * len(scores)
    tokens = zip(*(items.get(f"{name}_tokens", missing) for name in sides), strict=True)
    rows = [
        ReplySample(prompt, list(reply), list(score), list(count), score[1] - score[0])
        for prompt, reply, score, count in zip(
            items["prompt"], replies, scores, tokens, strict=True
        )
    ]
    return sorted(rows, key=lambda row: -(row.difference or 0.0))
