"""The number that a gate looks at: a metric of a stage's result, its interval from the items."""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from rlhf_core.config.gate_rules import RECORDED_CONFIDENCE, GateRule
from rlhf_core.errors import BadInput
from rlhf_core.evidence.item_metrics import (
    ITEM_METRICS,
    base_metric,
    benchmark_of,
    champion_column,
    columns_of,
    is_proportion,
)
from rlhf_core.evidence.item_terms import (
    Items,
    counted_items,
    describe_metric,
    item_values,
    load_clusters,
    load_items,
    metric_terms,
    negated,
    sample_size,
)
from rlhf_core.metrics import domain
from rlhf_core.rundir import StageResult
from rlhf_core.statistics.bounded import few_differ, widened
from rlhf_core.statistics.clusters import (
    Clusters,
    bootstrap_clustered,
    clopper_pearson_clustered,
    count_clusters,
    describe_bootstrap,
    describe_clusters,
    sign_test_clustered,
    wilson_clustered,
)
from rlhf_core.statistics.intervals import MIN_BOOTSTRAP, Term, statistic

ROUNDING = 1e-6  # by which a correct value may exceed its domain
AGREES = 1e-3  # items and result may differ by rounding: relative, and absolute below 1


@dataclass(frozen=True)
class MeasuredMetric:
    """A number with its sample size and interval.

    n_prompts: different prompts behind the n items; None where each item has one of its own.
    problem: the reason why it cannot be used, if any. how: how the interval was computed, in words.
    """

    value: float | None = None
    n: int | None = None
    n_prompts: int | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    how: str = ""
    problem: str | None = None


def measure(rule: GateRule, result: StageResult, run_dir: Path) -> MeasuredMetric:
    """Return the number that the rule looks at.

    Evidence that cannot be used is a `problem` of the result; this raises nothing for it.
    """
    metrics = [name for name in (rule.metric, rule.minus) if name]
    recorded_n = result.counts.get(rule.metric)
    if problem := next(filter(None, (_unusable(name, result) for name in metrics)), None):
        value = _finite(result.metrics.get(rule.metric))
        return MeasuredMetric(value, recorded_n, problem=problem)
    recorded = _recorded(rule, result)
    if stored := _stored(rule, result):
        how = "as the stage computed it"
        prompts = _recorded_prompts(rule.metric, result)
        found = MeasuredMetric(recorded, recorded_n, prompts, how=how)
        return _with_interval(found, stored, rule)
    try:
        return _from_items(rule, result, run_dir, recorded)
    except BadInput as error:
        return MeasuredMetric(recorded, recorded_n, problem=str(error))
    except ValueError as error:  # no evidence by item: no problem for a rule on the estimate alone
        problem = str(error) if _needs_items(rule) else None
        return MeasuredMetric(recorded, recorded_n, problem=problem)


def _needs_items(rule: GateRule) -> bool:
    return rule.of != "estimate" or rule.method != "auto" or (rule.is_paired and not rule.minus)


def _unusable(metric: str, result: StageResult) -> str | None:
    value = result.metrics.get(metric)
    if value is None or not math.isfinite(value):
        return f"{metric} is {value}; expected a finite number"
    low, high = domain(metric)
    if not low - ROUNDING <= value <= high + ROUNDING:
        return (
            f"{metric} is {value:.4g}, outside its domain; expected a number from {low:g} to"
            f" {high:g}"
        )
    return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _recorded(rule: GateRule, result: StageResult) -> float | None:
    if rule.method == "sign" or (rule.is_paired and not rule.minus):
        return None
    return result.metrics[rule.metric] - (result.metrics[rule.minus] if rule.minus else 0.0)


def _stored(rule: GateRule, result: StageResult) -> tuple[float, float] | None:
    if rule.is_paired or rule.method != "auto" or rule.confidence != RECORDED_CONFIDENCE:
        return None
    return result.intervals.get(rule.metric) or result.intervals.get(base_metric(rule.metric))


def _recorded_prompts(metric: str, result: StageResult) -> int | None:
    """Return the number of different prompts that the stage states for a metric of all its items.

    None where each item has a prompt of its own.
    """
    prefix = metric.partition("/")[0]
    for items, prompts in (("heldout_pairs", "heldout_prompts"), ("prompts", "different_prompts")):
        n = result.metrics.get(f"{prefix}/{items}")
        found = result.metrics.get(f"{prefix}/{prompts}")
        if n is not None and found is not None and result.counts.get(metric) == n > found:
            return int(found)
    return None


def _from_items(
    rule: GateRule, result: StageResult, run_dir: Path, recorded: float | None
) -> MeasuredMetric:
    benchmark = benchmark_of(rule.metric)
    items = load_items(result, run_dir, columns_needed(rule), benchmark)
    for metric in filter(None, (rule.metric, rule.minus)):
        _require_agreement(metric, items, result)
    terms, clusters = rule_terms(rule, items), load_clusters(result, run_dir, benchmark)
    value = statistic(terms) if recorded is None else recorded
    if rule.method == "sign":
        tie = 0.5 if not rule.is_paired and is_proportion(rule.metric) else 0.0
        return _sign(rule, item_values(terms) - tie, clusters)
    n, counted_N = sample_size(rule.metric, terms), counted_items(rule.metric, terms)
    is_share = not rule.is_paired and is_proportion(rule.metric)
    if rule.method == "wilson" or (rule.method == "auto" and is_share):
        ((_, wins_N, _),) = terms
        interval = wilson_clustered(wins_N, counted_N, clusters, rule.confidence)
        how = "Wilson score interval of a share"
    else:
        interval, how = _resampled(rule, terms, clusters)
    how = _in_words(how, describe_clusters(clusters, counted_N), describe_computation(rule))
    prompts = _shared_prompts(clusters, counted_N)
    return _with_interval(MeasuredMetric(value, n, prompts, how=how), interval, rule)


def _resampled(
    rule: GateRule, terms: list[Term], clusters: Clusters
) -> tuple[tuple[float, float], str]:
    """Return the bootstrap's interval and how it was made, in words.

    With method 'auto' the interval of a mean of values from -1 to 1, nearly all of them equal, is
    no narrower than by `widened`.
    """
    interval = bootstrap_clustered(terms, clusters, rule.confidence)
    values_N, how = item_values(terms), describe_bootstrap(clusters, len(terms[0][1]))
    low, high = rule.domain()
    is_mean = rule.method == "auto" and all((bottom == 1).all() for _, _, bottom in terms)
    if is_mean and low >= -1 and high <= 1 and few_differ(values_N, clusters):
        how += f", no narrower than by binomial shares: fewer than {MIN_BOOTSTRAP} differ"
        return widened(interval, values_N, clusters, rule.confidence), how
    if interval[0] == interval[1]:
        how += "; without width, because no item differs from the others"
    return interval, how


def _in_words(*parts: str) -> str:
    return "; ".join(filter(None, parts))


def _shared_prompts(clusters: Clusters, counted_N: np.ndarray) -> int | None:
    """Return the number of prompts behind the counted items; None where no two share one."""
    found = count_clusters(clusters, counted_N)
    return found if found < (counted_N != 0).sum() else None


def _sign(rule: GateRule, margins_N: np.ndarray, clusters: Clusters) -> MeasuredMetric:
    decided_N = (np.nan_to_num(margins_N) != 0).astype(float)
    wins, losses = int((margins_N > 0).sum()), int((margins_N < 0).sum())
    if not wins + losses:
        return MeasuredMetric(n=0, problem=f"no item of {rule.metric} is decided: all are ties")
    won_N = (margins_N > 0).astype(float)
    interval = clopper_pearson_clustered(won_N, decided_N, clusters, rule.confidence)
    how = _in_words(
        f"exact binomial interval (Clopper-Pearson) of {wins} won and {losses} lost items, ties"
        " left out",
        describe_clusters(clusters, decided_N),
        f"sign test p = {sign_test_clustered(np.nan_to_num(margins_N), clusters):.3g}",
        describe_computation(rule),
    )
    share, n = wins / (wins + losses), wins + losses
    found = MeasuredMetric(share, n, _shared_prompts(clusters, decided_N), how=how)
    return _with_interval(found, interval, rule)


def _with_interval(
    found: MeasuredMetric, interval: tuple[float, float], rule: GateRule
) -> MeasuredMetric:
    """Return `found` with its interval, or with a problem if it is not finite and ordered."""
    low, high = interval
    is_finite = _finite(found.value) is not None and math.isfinite(low) and math.isfinite(high)
    if is_finite and low <= high:
        return replace(found, interval=interval, confidence=rule.confidence)
    problem = (
        f"value {found.value} and interval {low} to {high} cannot be used; expected finite numbers,"
        " the lower end first"
    )
    return MeasuredMetric(_finite(found.value), found.n, problem=problem)


def _require_agreement(metric: str, items: Items, result: StageResult) -> None:
    """Raise BadInput unless the items give the metric and sample size that the result states."""
    terms = metric_terms(metric, items)
    found, n = statistic(terms), sample_size(metric, terms)
    stated, stated_n = result.metrics[metric], result.counts.get(metric)
    if not math.isclose(found, stated, rel_tol=AGREES, abs_tol=AGREES):
        raise BadInput(
            f"the items give {metric} = {found:.6g}, the result states {stated:.6g}: they do not"
            " belong together"
        )
    if stated_n is not None and n != stated_n:
        raise BadInput(
            f"{metric} rests on {stated_n} samples by the result and on {n} items: they do not"
            " belong together"
        )


def columns_needed(rule: GateRule) -> set[str]:
    """Return the item columns behind the number that the rule looks at.

    Raises ValueError when a metric of the rule is not computed from items.
    """
    metrics = [name for name in (rule.metric, rule.minus) if name]
    if missing := [name for name in metrics if name not in ITEM_METRICS]:
        raise ValueError(
            f"{missing[0]} is not computed from items, and its result holds no such interval"
        )
    columns = {column for metric in metrics for column in columns_of(metric)}
    if rule.is_paired and not rule.minus:
        return columns | {champion_column(column) for column in columns}
    return columns


def rule_terms(rule: GateRule, items: Items) -> list[Term]:
    """Return the terms of `statistic` whose sum is the number that the rule looks at."""
    terms = metric_terms(rule.metric, items)
    if not rule.is_paired:
        return terms
    baseline = (
        metric_terms(rule.minus, items)
        if rule.minus
        else metric_terms(rule.metric, items, of_champion=True)
    )
    return terms + negated(baseline)


def describe_computation(rule: GateRule) -> str:
    """Return how the number is computed from item columns, as one sentence."""
    text = describe_metric(rule.metric)
    if rule.minus:
        return f"{text}, less {describe_metric(rule.minus)}, on the same items"
    if rule.is_paired:
        return f"{text}, less the same of the champion's replies to the same items"
    return text
