"""What a gate looks at: a metric of a stage's result, and the interval computed from the per-item
evidence.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.config.gate_rules import GateRule
from rlhf_core.errors import BadInput
from rlhf_core.evidence.item_metrics import (
    ITEM_METRICS,
    base_metric,
    champion_column,
    columns_of,
    is_proportion,
)
from rlhf_core.metrics import domain
from rlhf_core.rundir import StageResult
from rlhf_core.statistics.intervals import (
    RESAMPLES,
    Term,
    bootstrap,
    clopper_pearson,
    sign_test,
    statistic,
    wilson,
)

STORED_CONFIDENCE = 0.95  # of the intervals that stages write
ROUNDING = 1e-6  # by which a correct value may lie outside its domain
AGREES = 1e-3  # items and result may differ by rounding: relative, and absolute below 1
Items = dict[str, np.ndarray]  # (N,) float64 by column; NaN: no value


@dataclass(frozen=True)
class MeasuredMetric:
    """A number, what it rests on, and why it cannot be used (problem), if so. how: the interval in
    words.
    """

    value: float | None = None
    n: int | None = None
    interval: tuple[float, float] | None = None
    confidence: float | None = None
    how: str = ""
    problem: str | None = None


def measure(rule: GateRule, result: StageResult, run_dir: Path) -> MeasuredMetric:
    """The number that the rule looks at; never raises for what is wrong with the evidence, that is
    a `problem`.
    """
    metrics = [name for name in (rule.metric, rule.minus) if name]
    if problem := next(filter(None, (_unusable(name, result) for name in metrics)), None):
        return MeasuredMetric(
            value=_finite(result.metrics.get(rule.metric)),
            n=result.counts.get(rule.metric),
            problem=problem,
        )
    needs_items = (
        rule.of != "estimate" or rule.method != "auto" or (rule.is_paired and not rule.minus)
    )
    recorded = MeasuredMetric(_recorded(rule, result), result.counts.get(rule.metric))
    if stored := _stored(rule, result):
        return _checked(
            MeasuredMetric(
                recorded.value, recorded.n, stored, STORED_CONFIDENCE, "as the stage computed it"
            )
        )
    try:
        return _from_items(rule, result, run_dir, recorded.value)
    except BadInput as error:
        return MeasuredMetric(recorded.value, recorded.n, problem=str(error))
    except ValueError as error:  # no such evidence: fine where only the estimate is asked for
        return MeasuredMetric(
            recorded.value, recorded.n, problem=str(error) if needs_items else None
        )


def _unusable(metric: str, result: StageResult) -> str | None:
    value = result.metrics.get(metric)
    if _finite(value) is None:
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
    if rule.is_paired or rule.method != "auto" or rule.confidence != STORED_CONFIDENCE:
        return None
    return result.intervals.get(rule.metric) or result.intervals.get(base_metric(rule.metric))


# per-item evidence


def _from_items(
    rule: GateRule, result: StageResult, run_dir: Path, recorded: float | None
) -> MeasuredMetric:
    items = load_items(result, run_dir, columns_needed(rule))
    for metric in filter(None, (rule.metric, rule.minus)):
        _require_agreement(metric, items, result)
    terms = rule_terms(rule, items)
    value = statistic(terms) if recorded is None else recorded
    if rule.method == "sign":
        return _sign(
            rule,
            item_values(terms)
            - (0.5 if not rule.is_paired and is_proportion(rule.metric) else 0.0),
        )
    if rule.method == "wilson" or (
        rule.method == "auto" and not rule.is_paired and is_proportion(rule.metric)
    ):
        ((_, wins, _),) = terms
        n = _samples(rule.metric, terms)
        interval, how = (
            wilson(float(wins.sum()), n, rule.confidence),
            "Wilson score interval of a share",
        )
    else:
        n, interval = _samples(rule.metric, terms), bootstrap(terms, rule.confidence)
        how = f"percentile bootstrap, {RESAMPLES:,} resamples of whole items, seed 0"
    return _checked(
        MeasuredMetric(value, n, interval, rule.confidence, f"{how}; {describe_computation(rule)}")
    )


def _sign(rule: GateRule, leads_N: np.ndarray) -> MeasuredMetric:
    wins, losses = int((leads_N > 0).sum()), int((leads_N < 0).sum())
    if not wins + losses:
        return MeasuredMetric(n=0, problem=f"no item of {rule.metric} is decided: all are ties")
    interval = clopper_pearson(wins, wins + losses, rule.confidence)
    how = (
        f"exact binomial interval (Clopper-Pearson) of {wins} won and {losses} lost items, ties"
        " left out; "
    )
    how += f"sign test p = {sign_test(wins, losses):.3g}; {describe_computation(rule)}"
    return _checked(
        MeasuredMetric(wins / (wins + losses), wins + losses, interval, rule.confidence, how)
    )


def _checked(found: MeasuredMetric) -> MeasuredMetric:
    low, high = found.interval
    if (
        _finite(found.value) is not None
        and math.isfinite(low)
        and math.isfinite(high)
        and low <= high
    ):
        return found
    problem = (
        f"value {found.value} and interval {low} to {high} cannot be used; expected finite numbers,"
        " the lower end first"
    )
    return MeasuredMetric(_finite(found.value), found.n, problem=problem)


def _require_agreement(metric: str, items: Items, result: StageResult) -> None:
    """Raise BadInput unless the items give the metric that the result states, over as many samples."""
    terms, stated, stated_n = (
        metric_terms(metric, items),
        result.metrics[metric],
        result.counts.get(metric),
    )
    found, n = statistic(terms), _samples(metric, terms)
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


def _samples(metric: str, terms: list[Term]) -> int:
    """Items that count: a denominator is 0 for those left out, but for a ratio it is a quantity of
    its own.
    """
    _, tops, bottoms = terms[0]
    return len(tops) if ITEM_METRICS[metric].kind == "ratio" else round(float(bottoms.sum()))


def columns_needed(rule: GateRule) -> set[str]:
    """Item columns behind what the rule looks at. Raises ValueError when a metric of it is not
    computed from items.
    """
    metrics = [name for name in (rule.metric, rule.minus) if name]
    if missing := [name for name in metrics if name not in ITEM_METRICS]:
        raise ValueError(
            f"{missing[0]} is not computed from items, and its result holds no such interval"
        )
    columns = set().union(*map(columns_of, metrics))
    return (
        columns | {champion_column(column) for column in columns}
        if rule.is_paired and not rule.minus
        else columns
    )


def load_items(result: StageResult, run_dir: Path, columns: Iterable[str]) -> Items:
    """Columns of the run's items.parquet as numbers (True is 1). Raises ValueError when absent,
    BadInput when damaged.
    """
    if "items" not in result.files:
        raise ValueError(
            f"the result in {run_dir} has no items.parquet; expected one, from this version's"
            " stages"
        )
    path, names = run_dir / result.files["items"], sorted(columns)
    try:
        known = pq.read_schema(path).names
        if missing := [name for name in names if name not in known]:
            raise ValueError(f"{path} has no column {missing[0]}")
        table = pq.read_table(path, columns=names)
        items = {name: table[name].cast(pa.float64()).to_numpy() for name in names}
    except (OSError, pa.ArrowException) as error:
        raise BadInput(
            f"{path} cannot be read ({error}); delete {run_dir} to make it again"
        ) from None
    for name, values_N in items.items():
        holes = int((~np.isfinite(values_N)).sum())
        if not len(values_N) or (holes and not name.startswith("judge_")):
            raise BadInput(
                f"{path}: column {name} has {holes} of {len(values_N)} values that are no finite"
                " number"
            )
    return items


def rule_terms(rule: GateRule, items: Items) -> list[Term]:
    """The terms of `statistic` whose sum is the number that the rule looks at."""
    terms = metric_terms(rule.metric, items)
    if not rule.is_paired:
        return terms
    baseline = (
        metric_terms(rule.minus, items)
        if rule.minus
        else metric_terms(rule.metric, items, of_champion=True)
    )
    return terms + _negated(baseline)


def metric_terms(metric: str, items: Items, *, of_champion: bool = False) -> list[Term]:
    """One metric as terms; of_champion: with the champion's columns in place of the policy's."""
    how = ITEM_METRICS[metric]
    if how.kind == "minus":
        return metric_terms(how.column, items) + _negated(metric_terms(how.other, items))
    first, second = (
        name and items[champion_column(name) if of_champion else name]
        for name in (how.column, how.other)
    )
    ones_N = np.ones(len(first))
    if how.kind == "wins":
        counted_N = items[how.where[0]] < items[how.where[1]] if how.where else ones_N
        return [
            (
                1,
                ((first > second) + how.tie * (first == second)) * counted_N,
                counted_N.astype(float),
            )
        ]
    if how.kind == "verdict":
        return [(1, np.nan_to_num(first), np.isfinite(first).astype(float))]
    tops = {
        "mean": lambda: first,
        "misses": lambda: 1 - first,
        "difference": lambda: first - second,
        "ratio": lambda: first,
    }
    return [(1, tops[how.kind](), second if how.kind == "ratio" else ones_N)]


def _negated(terms: list[Term]) -> list[Term]:
    return [(-sign, top, bottom) for sign, top, bottom in terms]


def item_values(terms: list[Term]) -> np.ndarray:
    """Each item's own value of `statistic`, those left out by a term too: (N,)."""
    with np.errstate(all="ignore"):
        values_N = sum(sign * top / bottom for sign, top, bottom in terms)
    return values_N


def describe_computation(rule: GateRule) -> str:
    """How the number is computed from item columns, one sentence."""
    text = _metric_in_words(rule.metric)
    if rule.minus:
        return f"{text}, less {_metric_in_words(rule.minus)}, on the same items"
    return (
        f"{text}, less the same of the champion's replies to the same items"
        if rule.is_paired
        else text
    )


def _metric_in_words(metric: str) -> str:
    how = ITEM_METRICS[metric]
    where = f" of those with {how.where[0]} < {how.where[1]}" if how.where else ""
    return {
        "wins": (
            f"share of items{where} with {how.column} > {how.other}, a tie counting {how.tie:g}"
        ),
        "misses": f"share of items without {how.column}",
        "mean": f"mean of {how.column}",
        "difference": f"mean of {how.column} - {how.other}",
        "ratio": f"mean of {how.column} / mean of {how.other}",
        "verdict": f"mean of {how.column} over judged items",
        "minus": f"{how.column} - {how.other}",
    }[how.kind]
