"""Per-item evidence of several runs, joined on the item, and the paired findings it gives."""

from dataclasses import dataclass

import numpy as np

from rlhf_core.evidence.item_metrics import ITEM_METRICS, benchmark_of, columns_of, is_proportion
from rlhf_core.evidence.item_terms import metric_terms, prompt_column
from rlhf_core.evidence.items import Columns
from rlhf_core.stage_catalogue import EVALUATE, STAGES
from rlhf_core.statistics.clusters import (
    Clusters,
    bootstrap_clustered,
    clusters_of,
    count_clusters,
    wilson_clustered,
)
from rlhf_core.statistics.crossed import pseudo_values
from rlhf_core.statistics.intervals import Term
from tasks.analysis import significance
from tasks.analysis.run_evidence import Estimate, RunEvidence
from tasks.analysis.significance import Finding

LOSS = "reward/heldout_loss"
KEYS = {  # metric's prefix -> stage, column that items are joined on
    stage.metric_prefix: (stage.name, stage.item_key) for stage in STAGES.values() if stage.item_key
}


@dataclass(frozen=True)
class JoinedItems:
    """Rows of several tables about the same items, in the first table's order."""

    tables: list[Columns]
    rows: list[tuple[int, ...]]  # one row index per table

    @property
    def size(self) -> int:
        """The number of items."""
        return len(self.rows)

    def has(self, column: str) -> bool:
        """Check that every table has the column."""
        return all(column in table for table in self.tables)

    def columns(self, name: str) -> list[list]:
        """Return the column of each table, aligned by item."""
        return [
            [table[name][row[place]] for row in self.rows]
            for place, table in enumerate(self.tables)
        ]

    @property
    def clusters(self) -> Clusters:
        """The number of each item's prompt; None where no two items share one."""
        name = prompt_column(self.tables[0])
        if name is None:
            return None
        return clusters_of([self.tables[0][name][row[0]] for row in self.rows])


def clusters_in(items: Columns) -> Clusters:
    """Return the number of the prompt of each item of a stage; None where no two share one."""
    name = prompt_column(items)
    return clusters_of(items[name]) if name else None


def join(tables: list[Columns | None], key: str) -> JoinedItems | None:
    """Join tables on `key`, the k-th row of an item with the k-th.

    None when a table is missing or no item is in all of them.
    """
    known = [table for table in tables if table is not None and key in table]
    if len(known) < len(tables):
        return None
    places = [_places(table[key]) for table in known]
    rows = [
        tuple(place[item] for place in places)
        for item in places[0]
        if all(item in place for place in places)
    ]
    return JoinedItems(known, rows) if rows else None


def _places(ids: list[str]) -> dict[tuple[str, int], int]:
    seen: dict[str, int] = {}
    places = {}
    for row, item in enumerate(ids):
        places[item, seen.get(item, 0)] = row
        seen[item] = seen.get(item, 0) + 1
    return places


def join_evaluations(*runs: RunEvidence) -> JoinedItems | None:
    """Join the evaluations of several runs on the prompt."""
    return join([run.items(EVALUATE.name) for run in runs], EVALUATE.item_key)


def estimate(metric: str, run: RunEvidence) -> Estimate | None:
    """Return a run's metric as its stage recorded it.

    A metric without a recorded interval gets one over its items, where there are enough: Wilson's
    of a share, else the bootstrap's.
    """
    found = run.metrics.get(metric)
    if found is None or found.low is not None or metric not in ITEM_METRICS:
        return found
    stage, _ = KEYS.get(metric.partition("/")[0], ("", ""))
    items = run.items(stage, benchmark_of(metric))
    if items is None or not columns_of(metric) <= items.keys():
        return found
    parts = _terms(metric, {name: items[name] for name in columns_of(metric)})
    clusters = clusters_in(items)
    if count_clusters(clusters, np.ones(len(parts[0][1]))) < significance.MIN_ITEMS:
        return found
    if is_proportion(metric):
        ((_, won_N, counted_N),) = parts
        return Estimate(found.value, *wilson_clustered(won_N, counted_N, clusters), found.n)
    return Estimate(found.value, *bootstrap_clustered(parts, clusters), found.n)


def paired_finding(metric: str, first: RunEvidence, second: RunEvidence) -> Finding | None:
    """Compare a metric over the items that both runs have; None when there are no such items."""
    joined = _joined_terms(metric, [first, second])
    if joined is None:
        return None
    pairs, (before, after) = joined
    share = is_proportion(metric) or metric == "reward/accuracy_over_length"
    return significance.paired(before, after, share=share, clusters=pairs.clusters)


def item_table(metric: str, runs: list[RunEvidence]) -> np.ndarray | None:
    """Return a metric by run and item, (S, N), a prompt that items share as one item.

    The mean of a row is the run's metric. None where the runs have no such items, or not all the
    same ones.
    """
    joined = _joined_terms(metric, runs)
    if joined is None:
        return None
    pairs, parts = joined
    if any(len(next(iter(table.values()))) != pairs.size for table in pairs.tables):
        return None
    table_SN = np.array([pseudo_values(terms, pairs.clusters) for terms in parts])
    return table_SN if np.isfinite(table_SN).all() else None


def _joined_terms(
    metric: str, runs: list[RunEvidence]
) -> tuple[JoinedItems, list[list[Term]]] | None:
    """Return the items that all runs have, and each run's terms of the metric over them.

    Pairs of answers are joined only where all runs held out the same comparisons.
    """
    prefix = metric.partition("/")[0]
    if prefix not in KEYS or (metric not in ITEM_METRICS and metric != LOSS):
        return None
    stage, key = KEYS[prefix]
    if key == "pair_id" and len({run.heldout(prefix) for run in runs}) > 1:
        return None
    benchmark = benchmark_of(metric)
    pairs = join([run.items(stage, benchmark) for run in runs], key)
    columns = {"chosen_score", "rejected_score"} if metric == LOSS else columns_of(metric)
    if pairs is None or not all(map(pairs.has, columns)):
        return None
    values = {name: pairs.columns(name) for name in columns}
    sides = range(len(runs))
    return pairs, [_terms(metric, {name: values[name][i] for name in columns}) for i in sides]


def _terms(metric: str, columns: Columns) -> list[Term]:
    arrays = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    if metric == LOSS:  # Bradley-Terry: log(1 + exp(-margin))
        return significance.terms(
            np.logaddexp(0.0, arrays["rejected_score"] - arrays["chosen_score"])
        )
    return metric_terms(metric, arrays)
