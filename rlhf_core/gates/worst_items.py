"""The items that count most against a passed gate, for people who check a verdict."""

import json
from pathlib import Path

import numpy as np

from rlhf_core.config.gate_rules import GateRule
from rlhf_core.evidence.item_metrics import ITEM_METRICS, SHARES, benchmark_of, detector_of
from rlhf_core.evidence.item_terms import Items, item_values, load_items, metric_terms
from rlhf_core.evidence.items import read_columns
from rlhf_core.gates.measure import columns_needed, rule_terms
from rlhf_core.rundir import StageResult

WORST = 20
_PAIR = ("pair_id", "prompt", "chosen", "rejected")
TEXTS = {
    "reward": _PAIR,
    "dpo": _PAIR,
    "kto": ("reply_id", "prompt", "reply"),
    "evaluate": ("prompt_id", "prompt"),
}
WorstItemsTable = dict[str, list]  # {"columns": [...], "data": [[...], ...]}


def worst_items(
    rule: GateRule, result: StageResult, run_dir: Path, count: int = WORST
) -> WorstItemsTable:
    """Return the `count` items that count most against the rule, worst first.

    Each row has texts and the numbers behind the metric. A detector's metric gives the detector's
    table. Raises ValueError when there is no evidence by item, BadInput when it is damaged.
    """
    if file := result.files.get(f"worst_{detector_of(rule.metric)}"):
        table = json.loads((run_dir / file).read_text(encoding="utf-8"))
        return {"columns": table["columns"], "data": table["data"][:count]}
    numbers = sorted(columns_needed(rule))
    benchmark = benchmark_of(rule.metric)
    items = load_items(result, run_dir, numbers, benchmark)
    badness_N = _badness(rule, items)
    order = [int(i) for i in np.argsort(-badness_N, kind="stable") if np.isfinite(badness_N[i])][
        :count
    ]
    texts = [*TEXTS[result.stage], *(["target"] if benchmark else [])]
    names = [*texts, *_replies(numbers), *numbers]
    columns = read_columns(run_dir / result.files["items"], names, benchmark).to_pydict()
    margin_N = _margin(rule, items)
    return {
        "columns": ["margin", *names],
        "data": [[float(margin_N[i]), *(columns[name][i] for name in names)] for i in order],
    }


def _replies(numbers: list[str]) -> list[str]:
    models = [
        name
        for name in ("policy", "sft", "champion")
        if any(name in number.split("_") for number in numbers)
    ]
    models += ["best_of_n"] if any(number.startswith("best_of_n_") for number in numbers) else []
    return [f"{name}_reply" for name in models]


def _badness(rule: GateRule, items: Items) -> np.ndarray:
    """Return how far each item pulls the metric away from the bound, (N,).

    -inf for an item that is won, NaN for one that does not count.
    """
    is_wanted_high = rule.bound in ("at least", "more than")
    margin_N = _margin(rule, items)
    badness_N = -margin_N if is_wanted_high else margin_N
    if rule.is_paired or ITEM_METRICS[rule.metric].kind not in SHARES:
        return badness_N
    ((_, top, bottom),) = metric_terms(rule.metric, items)
    with np.errstate(all="ignore"):
        share_N = top / bottom
    return np.where(
        share_N == (1.0 if is_wanted_high else 0.0),
        -np.inf,
        np.where(bottom > 0, badness_N, np.nan),
    )


def _margin(rule: GateRule, items: Items) -> np.ndarray:
    """Return each item's own number, (N,); where two columns are compared, their difference."""
    how = ITEM_METRICS[rule.metric]
    if not rule.is_paired and how.kind in ("wins", "difference"):
        return items[how.column] - items[how.second]
    return item_values(rule_terms(rule, items))
