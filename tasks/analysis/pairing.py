"""Per-item evidence of several runs, joined on the item, and the paired findings that follow from
it.
"""

from dataclasses import dataclass

import numpy as np

from rlhf_core.evidence.item_metrics import ITEM_METRICS, columns_of, is_proportion
from rlhf_core.evidence.items import Columns
from rlhf_core.gates.measure import metric_terms
from rlhf_core.statistics.intervals import Term, bootstrap
from tasks.analysis import significance
from tasks.analysis.run_evidence import Estimate, RunEvidence
from tasks.analysis.significance import Finding

LOSS = "reward/heldout_loss"
# metric's prefix -> stage, what items join on
KEYS = {
    "eval": ("evaluate", "prompt_id"),
    "reward": ("reward", "pair_id"),
    "dpo": ("dpo", "pair_id"),
}


@dataclass(frozen=True)
class Joined:
    """Rows of several tables that are about the same items, in the first table's order."""

    tables: list[Columns]
    rows: list[tuple[int, ...]]  # one index a table

    @property
    def size(self) -> int:
        return len(self.rows)

    def has(self, column: str) -> bool:
        """Whether every table has the column."""
        return all(column in table for table in self.tables)

    def columns(self, name: str) -> list[list]:
        """The column in each table, aligned."""
        return [
            [table[name][row[place]] for row in self.rows]
            for place, table in enumerate(self.tables)
        ]


def join(tables: list[Columns | None], key: str) -> Joined | None:
    """Join on `key`, the k-th row of an item with the k-th; None when a table is missing or no item
    is in all.
    """
    if any(table is None or key not in table for table in tables):
        return None
    places = [_places(table[key]) for table in tables]
    rows = [
        tuple(place[item] for place in places)
        for item in places[0]
        if all(item in place for place in places)
    ]
    return Joined(list(tables), rows) if rows else None


def _places(ids: list[str]) -> dict[tuple[str, int], int]:
    seen: dict[str, int] = {}
    places = {}
    for row, item in enumerate(ids):
        places[item, seen.get(item, 0)] = row
        seen[item] = seen.get(item, 0) + 1
    return places


def joined(*runs: RunEvidence) -> Joined | None:
    """The evaluations of several runs, joined on the prompt."""
    return join([run.items("evaluate") for run in runs], "prompt_id")


def estimate(metric: str, run: RunEvidence) -> Estimate | None:
    """A run's metric as its stage recorded it; with an interval over its items where it recorded
    none.
    """
    found = run.metrics.get(metric)
    stage, _ = KEYS.get(metric.partition("/")[0], ("", ""))
    items = run.items(stage)
    if (
        found is None
        or found.low is not None
        or metric not in ITEM_METRICS
        or not _has(items, metric)
    ):
        return found
    parts = _terms(metric, {name: items[name] for name in columns_of(metric)})
    if len(parts[0][1]) < significance.MIN_ITEMS:
        return found
    return Estimate(found.value, *bootstrap(parts), found.n)


def paired_finding(metric: str, first: RunEvidence, second: RunEvidence) -> Finding | None:
    """A metric over the items that both runs measured it on; None when there is no such evidence.

    Pairs of the reward model are joined only where both runs held out the same comparisons.
    """
    prefix = metric.partition("/")[0]
    if prefix not in KEYS or (metric not in ITEM_METRICS and metric != LOSS):
        return None
    if prefix in ("reward", "dpo") and first.heldout(prefix) != second.heldout(prefix):
        return None
    stage, key = KEYS[prefix]
    pairs = join([first.items(stage), second.items(stage)], key)
    columns = {"chosen_score", "rejected_score"} if metric == LOSS else columns_of(metric)
    if pairs is None or not all(map(pairs.has, columns)):
        return None
    values = {name: pairs.columns(name) for name in columns}
    sides = [_terms(metric, {name: values[name][side] for name in columns}) for side in (0, 1)]
    share = is_proportion(metric) or metric == "reward/accuracy_over_length"
    return significance.paired(*sides, share=share)


def _has(items: Columns | None, metric: str) -> bool:
    return items is not None and all(name in items for name in columns_of(metric))


def _terms(metric: str, columns: Columns) -> list[Term]:
    arrays = {name: np.asarray(values, dtype=float) for name, values in columns.items()}
    if metric == LOSS:  # Bradley-Terry: log(1 + exp(-margin))
        return significance.terms(
            np.logaddexp(0.0, arrays["rejected_score"] - arrays["chosen_score"])
        )
    return metric_terms(metric, arrays)


def same_scorer(first: RunEvidence, second: RunEvidence) -> bool:
    """Whether both evaluations used one independent scorer: the same function, or the same further
    reward models.
    """
    return _same_function("independent_scorer", first, second) or _same_function(
        "reward_2", first, second
    )


def same_judge(first: RunEvidence, second: RunEvidence) -> bool:
    """Whether both evaluations asked the same judge in the same way."""
    return _same_function("judge", first, second)


def _same_function(name: str, first: RunEvidence, second: RunEvidence) -> bool:
    """Whether an opinion is configured alike in both, from the same bytes where both say from
    which.
    """
    if not all("evaluate" in run.stages for run in (first, second)):
        return False
    stages = [run.stages["evaluate"] for run in (first, second)]
    config, other = (stage.config.get("evaluate", {}).get(name) for stage in stages)
    digest, other_digest = (stage.input(name) for stage in stages)
    return (
        config == other
        and (config or digest) is not None
        and (digest == other_digest or None in (digest, other_digest))
    )
