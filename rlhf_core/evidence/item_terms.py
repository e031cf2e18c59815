"""Metrics as sums over items: the terms that gates and comparisons compute intervals from."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from rlhf_core.errors import BadInput
from rlhf_core.evidence.item_metrics import ITEM_METRICS, ItemMetric, champion_column
from rlhf_core.evidence.items import read_columns
from rlhf_core.rundir import StageResult
from rlhf_core.statistics.clusters import Clusters, clusters_of
from rlhf_core.statistics.intervals import Term

Items = dict[str, np.ndarray]  # (N,) float64 by column; NaN: no value


def load_items(
    result: StageResult, run_dir: Path, columns: Iterable[str], benchmark: str | None = None
) -> Items:
    """Return columns of the run's items.parquet as numbers (True is 1).

    benchmark: of this benchmark's items; None: of the held-out pairs or prompts.
    Raises ValueError when the file or a column is absent, BadInput when it is damaged.
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
        table = read_columns(path, names, benchmark)
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


def prompt_column(columns: Iterable[str]) -> str | None:
    """Return the column that tells which items share a prompt.

    Pairs of older versions have the prompt's last user turn only. None where items name no prompt.
    """
    known = set(columns)
    return next((name for name in ("prompt_id", "prompt") if name in known), None)


def load_clusters(result: StageResult, run_dir: Path, benchmark: str | None = None) -> Clusters:
    """Return the number of the prompt of each item in the run's items.parquet, (N,).

    None where no two items share a prompt. benchmark: as of `load_items`, which reads the file
    before and raises what is wrong with it.
    """
    path = run_dir / result.files["items"]
    name = prompt_column(pq.read_schema(path).names)
    return clusters_of(read_columns(path, [name], benchmark)[name].to_pylist()) if name else None


def metric_terms(metric: str, items: Items, *, of_champion: bool = False) -> list[Term]:
    """Return one metric as terms of `statistic`.

    of_champion: with the champion's columns in place of the policy's.
    """
    how = ITEM_METRICS[metric]
    if how.kind == "minus":
        return metric_terms(how.column, items) + negated(metric_terms(how.second, items))

    def values(column: str) -> np.ndarray:
        return items[champion_column(column) if of_champion else column]

    first_N = values(how.column)
    ones_N = np.ones(len(first_N))
    if how.kind == "verdict":
        return [(1, np.nan_to_num(first_N), np.isfinite(first_N).astype(float))]
    if how.kind in ("mean", "share"):
        return [(1, first_N, ones_N)]
    if how.kind == "misses":
        return [(1, 1 - first_N, ones_N)]
    second_N = values(how.second)
    if how.kind == "wins":
        return [_wins(how, first_N, second_N, items)]
    if how.kind == "difference":
        return [(1, first_N - second_N, ones_N)]
    return [(1, first_N, second_N)]  # ratio


def _wins(how: ItemMetric, first_N: np.ndarray, second_N: np.ndarray, items: Items) -> Term:
    counted_N = np.ones(len(first_N))
    if how.where:
        less, more = how.where
        counted_N = (items[less] < items[more]).astype(float)
    won_N = (first_N > second_N) + how.tie * (first_N == second_N)
    return 1, won_N * counted_N, counted_N


def negated(terms: list[Term]) -> list[Term]:
    """Return the terms with the opposite sign."""
    return [(-sign, top, bottom) for sign, top, bottom in terms]


def item_values(terms: list[Term]) -> np.ndarray:
    """Return each item's own value of `statistic`, (N,), also of items that a term leaves out."""
    values_N = np.zeros(len(terms[0][1]))
    with np.errstate(all="ignore"):
        for sign, top, bottom in terms:
            values_N = values_N + sign * top / bottom
    return values_N


def sample_size(metric: str, terms: list[Term]) -> int:
    """Return the number of items that count.

    A denominator is 0 for items left out. For a ratio it is a quantity of its own.
    """
    _, tops, bottoms = terms[0]
    return len(tops) if ITEM_METRICS[metric].kind == "ratio" else round(float(bottoms.sum()))


def counted_items(metric: str, terms: list[Term]) -> np.ndarray:
    """Return 1 for each item that counts and 0 for one left out, (N,)."""
    _, _, bottoms = terms[0]
    return np.ones(len(bottoms)) if ITEM_METRICS[metric].kind == "ratio" else bottoms


def describe_metric(metric: str) -> str:
    """Return how a metric is computed from item columns, in words."""
    how = ITEM_METRICS[metric]
    where = f" of those with {how.where[0]} < {how.where[1]}" if how.where else ""
    return {
        "wins": (
            f"share of items{where} with {how.column} > {how.other}, a tie counting {how.tie:g}"
        ),
        "share": f"share of items with {how.column}",
        "misses": f"share of items without {how.column}",
        "mean": f"mean of {how.column}",
        "difference": f"mean of {how.column} - {how.other}",
        "ratio": f"mean of {how.column} / mean of {how.other}",
        "verdict": f"mean of {how.column} over judged items",
        "minus": f"{how.column} - {how.other}",
    }[how.kind]
