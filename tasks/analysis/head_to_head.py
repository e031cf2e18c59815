"""The policy against the SFT model or the champion, on the prompts of its own run's evaluation."""

from dataclasses import dataclass

from rlhf_core.evidence.items import Columns
from tasks.analysis import significance
from tasks.analysis.comparison import MetricRow, ReplySample, WinRate, judged
from tasks.analysis.run_evidence import Estimate, RunEvidence, StageEvidence
from tasks.analysis.significance import Finding

NAMES = {
    "sft": "SFT model",
    "champion": "champion",
    "best_of_n": "best of n replies by the SFT model",
    "policy": "policy",
}
JUDGES = {"score": "reward model", "independent": "independent scorer"}
# column of the items -> (metric of the policy, that of the SFT model, name, unit, meaning)
MEASURES = {
    "score": (
        "eval/score_policy",
        "eval/score_sft",
        "Reward",
        "score",
        "Mean score by the reward model",
    ),
    "independent": (
        "eval/independent_policy",
        "eval/independent_sft",
        "Independent",
        "score",
        "Mean of the independent scorer",
    ),
    "tokens": (
        "eval/length_policy",
        "eval/length_sft",
        "Length",
        "tokens",
        "Mean reply length, EOS included",
    ),
    "repetition": (
        "eval/repetition_policy",
        "eval/repetition_sft",
        "Repetition",
        "share",
        "Repeated 3-grams / 3-grams, mean",
    ),
    "cut": (
        "eval/no_eos_policy",
        "eval/no_eos_sft",
        "Cut replies",
        "share",
        "Replies cut at the length limit",
    ),
}
NO_ITEMS = "no per-item evidence"


@dataclass(frozen=True)
class HeadToHead:
    """The policy (second column) against another model (first column)."""

    model: str  # sft, champion or best_of_n
    rows: list[MetricRow]
    win_rates: list[WinRate]
    samples: list[ReplySample]


def head_to_head(run: RunEvidence, model: str) -> HeadToHead | None:
    """The policy of `run` against its SFT model or champion; None when the evaluation had no such
    model.
    """
    stage = run.stages.get("evaluate")
    if stage is None or not stage.result or not _took_part(stage, model):
        return None
    items = stage.items
    if items is None or f"{model}_score" not in items:
        return HeadToHead(
            model,
            _recorded(run, model),
            _recorded_win_rates(run, model),
            _samples(stage.samples or {}, model),
        )
    scorer_only = stage.input("reward") is None and _has(
        items, model, "independent"
    )  # the score is the scorer's then
    columns = [column for column in MEASURES if not (scorer_only and column == "score")]
    rows = [row for column in columns if (row := _row(items, model, column))]
    win_rates = [
        _win_rate(items, model, column)
        for column in JUDGES
        if column in columns and _has(items, model, column)
    ]
    return HeadToHead(model, rows, [*win_rates, *_judged(items, model)], _samples(items, model))


def _took_part(stage: StageEvidence, model: str) -> bool:
    if model == "best_of_n":  # drawn from the SFT model, no input of its own
        return stage.items is not None and "best_of_n_score" in stage.items
    return stage.input(model) is not None


def _has(items: Columns, model: str, column: str) -> bool:
    return all(f"{name}_{column}" in items for name in ("policy", model))


def _row(items: Columns, model: str, column: str) -> MetricRow | None:
    source = "ended" if column == "cut" else column
    if not _has(items, model, source):
        return None
    sides = [items[f"{name}_{source}"] for name in (model, "policy")]
    if column == "cut":
        sides = [[not ended for ended in side] for side in sides]
    metric, _, name, unit, meaning = MEASURES[column]
    found = significance.paired(*map(significance.terms, sides), share=column == "cut")
    return MetricRow(
        name, unit, meaning, [significance.mean(side) for side in sides], [judged(metric, found)]
    )


def _win_rate(items: Columns, model: str, column: str) -> WinRate:
    found = significance.win_rate(items[f"policy_{column}"], items[f"{model}_{column}"])
    return WinRate(NAMES["policy"], NAMES[model], JUDGES[column], found)


def _judged(items: Columns, model: str) -> list[WinRate]:
    """What the configured judge said (rlhf_core/judging/judge.py), where it was asked about this
    model.
    """
    outcomes = [outcome for outcome in items.get(f"judge_vs_{model}", []) if outcome is not None]
    if not outcomes:
        return []
    return [
        WinRate(
            NAMES["policy"],
            NAMES[model],
            "judge",
            significance.win_rate(outcomes, [0.5] * len(outcomes)),
        )
    ]


def _recorded(run: RunEvidence, model: str) -> list[MetricRow]:
    """Means that an older run recorded, without the items behind them."""
    rows, metrics = [], run.metrics
    for column, (ours, theirs, name, unit, meaning) in MEASURES.items():
        if model == "sft" and ours in metrics and theirs in metrics:
            values = [metrics[theirs], metrics[ours]]
            gain = metrics.get("eval/independent_gain") if column == "independent" else None
            found = _gain(gain) if gain else significance.unpaired(*values)
            rows.append(MetricRow(name, unit, meaning, values, [judged(ours, found)]))
    return rows


def _gain(gain: Estimate) -> Finding:
    if gain.low is None:
        return Finding("no interval", gain.value, note=NO_ITEMS)
    beyond = gain.low > 0 or gain.high < 0
    verdict = "beyond noise" if beyond else "within noise"
    return Finding(
        verdict, gain.value, gain.low, gain.high, gain.n, "as the evaluation recorded it"
    )


def _recorded_win_rates(run: RunEvidence, model: str) -> list[WinRate]:
    rate = run.metrics.get("eval/win_rate" if model == "sft" else "eval/win_rate_vs_champion")
    if rate is None:
        return []
    found = significance.rate(rate, "Wilson interval, as recorded", NO_ITEMS)
    return [WinRate(NAMES["policy"], NAMES[model], JUDGES["score"], found)]


def _samples(items: Columns, model: str) -> list[ReplySample]:
    """Replies side by side, the largest reward difference first."""
    if not all(
        f"{name}_{column}" in items for name in (model, "policy") for column in ("reply", "score")
    ):
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
    return sorted(rows, key=lambda row: -row.difference)
