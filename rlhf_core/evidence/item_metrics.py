"""The formula of each metric over columns of items.parquet, from which gates compute intervals.

wins        share of items on which `column` is higher than `other`; a tie counts `tie`
share       share of items on which `column` is 1, and not 0
misses      share of items on which `column` is false
mean        mean of `column`
difference  mean of `column` - `other`, paired
ratio       mean of `column` / mean of `other`
verdict     mean of `column`, values from 0 to 1 that state the winner; items without one are left
            out
minus       metric `column` - metric `other`, on the same items
"""

from typing import Literal, NamedTuple

from rlhf_core.benchmarks.names import COLUMN, GAIN, WINS, BenchmarkMetric, DeclaredByName
from rlhf_core.metric_tables.stages import MAX_MEMBERS

ItemMetricKind = Literal[
    "wins", "share", "misses", "mean", "difference", "ratio", "verdict", "minus"
]


class ItemMetric(NamedTuple):
    """The formula of one metric.

    where: (less, more) keeps items with less < more. benchmark: the items are those of this
    benchmark; None: the stage's held-out pairs or prompts.
    """

    kind: ItemMetricKind
    column: str
    other: str | None = None
    tie: float = 0.5
    where: tuple[str, str] | None = None
    benchmark: str | None = None

    @property
    def second(self) -> str:
        """The other column. Raises ValueError for a formula of one column."""
        if self.other is None:
            raise ValueError(f"{self.kind} of {self.column} has no second column; expected other")
        return self.other


def _of_benchmark(parts: BenchmarkMetric) -> ItemMetric | None:
    """Return the formula of a benchmark's metric; None for an end of its interval."""
    if parts.end:
        return None
    ours, task = parts.column("policy"), parts.task
    if parts.of == GAIN:
        return ItemMetric("difference", ours, parts.column("sft"), benchmark=task)
    if parts.of == WINS:
        return ItemMetric("wins", ours, parts.column("champion"), benchmark=task)
    kind: ItemMetricKind = "share" if parts.is_share else "mean"
    return ItemMetric(kind, parts.column(parts.of), benchmark=task)


_SHORTER = ("chosen_tokens", "rejected_tokens")
_LISTED: dict[str, ItemMetric] = {
    "reward/accuracy": ItemMetric("wins", "chosen_score", "rejected_score", tie=0.0),
    "reward/accuracy_when_shorter": ItemMetric(
        "wins", "chosen_score", "rejected_score", tie=0.0, where=_SHORTER
    ),
    "reward/length_baseline": ItemMetric("wins", "chosen_tokens", "rejected_tokens"),
    "reward/accuracy_over_length": ItemMetric("minus", "reward/accuracy", "reward/length_baseline"),
    "reward/heldout_margin": ItemMetric("difference", "chosen_score", "rejected_score"),
    "dpo/accuracy": ItemMetric("wins", "chosen_score", "rejected_score", tie=0.0),
    "dpo/accuracy_when_shorter": ItemMetric(
        "wins", "chosen_score", "rejected_score", tie=0.0, where=_SHORTER
    ),
    "dpo/length_baseline": ItemMetric("wins", "chosen_tokens", "rejected_tokens"),
    "dpo/heldout_margin": ItemMetric("difference", "chosen_score", "rejected_score"),
    "eval/score_policy": ItemMetric("mean", "policy_score"),
    "eval/score_sft": ItemMetric("mean", "sft_score"),
    "eval/score_gain": ItemMetric("difference", "policy_score", "sft_score"),
    "eval/win_rate": ItemMetric("wins", "policy_score", "sft_score"),
    "eval/win_rate_vs_champion": ItemMetric("wins", "policy_score", "champion_score"),
    "eval/win_rate_vs_champion_by_its_reward": ItemMetric(
        "wins", "policy_by_champions_reward", "champion_by_champions_reward"
    ),
    "eval/independent_win_rate_vs_champion": ItemMetric(
        "wins", "policy_independent", "champion_independent"
    ),
    "eval/score_best_of_n": ItemMetric("mean", "best_of_n_score"),
    "eval/independent_best_of_n": ItemMetric("mean", "best_of_n_independent"),
    "eval/length_best_of_n": ItemMetric("mean", "best_of_n_tokens"),
    "eval/win_rate_vs_best_of_n": ItemMetric("wins", "policy_score", "best_of_n_score"),
    "eval/kl_per_response": ItemMetric("mean", "policy_kl"),
    "eval/length_policy": ItemMetric("mean", "policy_tokens"),
    "eval/length_sft": ItemMetric("mean", "sft_tokens"),
    "eval/length_ratio": ItemMetric("ratio", "policy_tokens", "sft_tokens"),
    "eval/repetition_policy": ItemMetric("mean", "policy_repetition"),
    "eval/repetition_sft": ItemMetric("mean", "sft_repetition"),
    "eval/repetition_increase": ItemMetric("difference", "policy_repetition", "sft_repetition"),
    "eval/no_eos_policy": ItemMetric("misses", "policy_ended"),
    "eval/no_eos_sft": ItemMetric("misses", "sft_ended"),
    "eval/independent_policy": ItemMetric("mean", "policy_independent"),
    "eval/independent_sft": ItemMetric("mean", "sft_independent"),
    "eval/independent_gain": ItemMetric("difference", "policy_independent", "sft_independent"),
    "eval/judge_win_rate": ItemMetric("verdict", "judge_vs_sft"),
    "eval/judge_win_rate_vs_champion": ItemMetric("verdict", "judge_vs_champion"),
} | {
    f"reward/accuracy_member_{m}": ItemMetric(
        "wins", f"chosen_member_{m}", f"rejected_member_{m}", tie=0.0
    )
    for m in range(1, MAX_MEMBERS + 1)
}
ITEM_METRICS = DeclaredByName(_LISTED, _of_benchmark)
# Metrics of all items together, and the detector whose table worst_<name> shows their items
DETECTORS = {
    "eval/length_correlation": "length",
    "eval/distinct": "repetition",
    "eval/opening_share": "opening",
    "eval/first_word": "opening",
    "eval/prompt_retrieval": "prompt",
    "eval/kl_per_reward": "kl",
    "eval/reward_up_independent_down": "independent",
    "eval/reward_disagreement": "disagreement",
}
SHARES = ("wins", "share", "misses", "verdict")  # kinds that are a share of items
WRITTEN_FOR_EACH_MODEL = ("score", "tokens", "ended", "repetition", "independent")


def base_metric(metric: str) -> str:
    """Return the metric that an interval's end belongs to; others as they are.

    'eval/win_rate_lower' -> 'eval/win_rate'.
    """
    base = metric.removesuffix("_lower").removesuffix("_upper")
    return base if base in ITEM_METRICS else metric


def columns_of(metric: str) -> set[str]:
    """Return every column that a metric in ITEM_METRICS needs."""
    how = ITEM_METRICS[metric]
    if how.kind == "minus":
        return columns_of(how.column) | columns_of(how.second)
    return {how.column, *filter(None, (how.other,)), *(how.where or ())}


def champion_column(column: str) -> str:
    """Return the champion's column beside one of the policy's; other columns as they are."""
    return f"champion_{column.removeprefix('policy_')}" if column.startswith("policy_") else column


def is_against_champion(metric: str) -> bool:
    """Return True when a metric is itself a comparison with the champion."""
    return metric in ITEM_METRICS and any("champion" in column for column in columns_of(metric))


def has_champion_value(metric: str) -> bool:
    """Return True when the same items hold the champion's value of this metric of the policy."""
    if metric not in ITEM_METRICS or is_against_champion(metric):
        return False
    policys = [column for column in columns_of(metric) if column.startswith("policy_")]
    return bool(policys) and all(map(_is_written_for_each_model, policys))


def _is_written_for_each_model(column: str) -> bool:
    kind = column.removeprefix("policy_")
    return kind in WRITTEN_FOR_EACH_MODEL or kind.startswith(COLUMN)


def benchmark_of(metric: str) -> str | None:
    """Return the benchmark whose items a metric is of; None for other metrics."""
    return ITEM_METRICS[metric].benchmark if metric in ITEM_METRICS else None


def is_proportion(metric: str) -> bool:
    """Return True when a metric is a share of items, so that Wilson's interval applies."""
    return metric in ITEM_METRICS and ITEM_METRICS[metric].kind in SHARES


def is_comparison(metric: str, *, paired: bool) -> bool:
    """Return True when each item has a winner.

    Either the metric itself compares, or (paired) a baseline's value is subtracted.
    """
    how = ITEM_METRICS.get(metric)
    if how is None or how.kind == "ratio" or how.where:
        return False
    return paired or how.kind in ("wins", "difference", "verdict")


def detector_of(metric: str) -> str | None:
    """Return the detector that a metric comes from, None for other metrics."""
    return next((name for prefix, name in DETECTORS.items() if metric.startswith(prefix)), None)
