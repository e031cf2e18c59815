"""Every metric's name, unit and meaning. A stage that logs an undeclared name fails."""

import math
from collections.abc import Iterable
from typing import NamedTuple

from rlhf_core.benchmarks.names import GAIN, WINS, BenchmarkMetric, DeclaredByName
from rlhf_core.benchmarks.subsets import meaning_of
from rlhf_core.metric_tables import stages as table
from rlhf_core.metric_tables.evaluation import DETECTOR_METRICS, EVAL_METRICS
from rlhf_core.metric_tables.labels import KTO_METRICS, LABEL_METRICS, LABEL_STEP_METRICS
from rlhf_core.metric_tables.new_labels import NEW_LABEL_METRICS
from rlhf_core.metric_tables.stages import ANY, Domain


class Metric(NamedTuple):
    """Unit, meaning and domain of a metric; without a domain of its own it has its unit's."""

    unit: str
    meaning: str
    domain: Domain | None = None


def _of_benchmark(parts: BenchmarkMetric) -> Metric:
    """Return the entry of a benchmark's metric."""
    is_share = parts.is_share or parts.of == WINS
    signed = (-1.0, 1.0) if is_share else ANY
    return Metric(
        "share" if is_share else "value",
        parts.meaning,
        signed if parts.of == GAIN else None if is_share else ANY,
    )


def _of_subset(name: str) -> Metric | None:
    """Return the entry of a metric of one subset of the comparisons; None for another name."""
    meaning = meaning_of(name)
    return Metric("share", meaning) if meaning else None


_LISTED: dict[str, Metric] = {
    f"{prefix}{name}": Metric(*row)
    for prefix, rows in {
        "": table.ANY_STAGE_METRICS,
        "system/": table.SYSTEM_METRICS,
        "prepare/": table.PREPARE_METRICS,
        "data/": table.DATA_METRICS,
        "sft/": table.SFT_METRICS,
        "reward/": table.REWARD_METRICS | LABEL_STEP_METRICS | LABEL_METRICS | NEW_LABEL_METRICS,
        "ppo/": table.PPO_METRICS,
        "dpo/": table.DPO_METRICS,
        "kto/": KTO_METRICS,
        "eval/": EVAL_METRICS | DETECTOR_METRICS,
    }.items()
    for name, row in rows.items()
}
METRICS = DeclaredByName(_LISTED, _of_benchmark, _of_subset)

_FROM_ZERO = (
    "rows rules pairs replies prompts responses groups rounds steps experts tokens tokens/s s J l2"
    " 1/step nats nats/token nats/pair nats/reply price ratio score^2 score/nat"
)
UNIT_DOMAINS: dict[str, Domain] = {"share": (0, 1)} | {
    unit: (0, None) for unit in _FROM_ZERO.split()
}


def domain(name: str) -> tuple[float, float]:
    """Return the least and greatest value that a declared metric can have; infinite without an end.

    A metric whose unit is not negative may still have a domain that begins below 0: a sampled KL
    estimate falls a little below zero, and only one far below shows that something is wrong.
    """
    metric = METRICS[name]
    low, high = metric.domain or UNIT_DOMAINS.get(metric.unit, ANY)
    return -math.inf if low is None else float(low), math.inf if high is None else float(high)


def in_order(names: Iterable[str]) -> list[str]:
    """Return the declared ones of these names in the table's order, those of benchmarks last."""
    found = set(names)
    listed = [name for name in METRICS if name in found]
    return [*listed, *sorted(name for name in found - set(listed) if name in METRICS)]


def require_declared(metrics: dict[str, float]) -> None:
    """Raise KeyError, naming them, when names are not in METRICS."""
    if unknown := sorted(name for name in metrics if name not in METRICS):
        raise KeyError(
            f"metrics {unknown} are not declared in rlhf_core/metric_tables/stages.py; add name,"
            " unit and meaning"
        )
