"""Comparison of the policy with SFT model and champion on a benchmark, as metrics and items."""

import torch
from torch import Tensor

from rlhf_core.benchmarks.names import GAIN, WINS, BenchmarkMetric
from rlhf_core.errors import BadInput
from rlhf_core.evaluation.benchmarks.results import ItemsByModel
from rlhf_core.evaluation.comparison import combined, with_interval
from rlhf_core.evidence.items import TARGET, Columns
from rlhf_core.rundir import Output
from rlhf_core.statistics.bounded import widened
from rlhf_core.statistics.intervals import wilson
from rlhf_core.statistics.paired import bootstrap_mean, win_rate


def compare_benchmark(task: str, found: ItemsByModel, seed: int) -> Output:
    """Return a benchmark's metrics, with 95% intervals.

    They are each model's mean (Wilson's interval of a share, else the bootstrap), the paired
    difference policy - SFT model (the bootstrap; of a share with few changed items no narrower than
    by `widened`), and the share of items that the policy wins against the champion.
    Raises BadInput when the models were not asked the same items.
    """
    _require_same_items(task, found)
    parts = []
    for metric in found["policy"].values:
        values = {name: torch.tensor(each.values[metric]).double() for name, each in found.items()}
        parts.append(_compare(task, metric, values, seed))
    return combined(parts, len(found["policy"].ids))


def _require_same_items(task: str, found: ItemsByModel) -> None:
    ids = {name: (items.ids, list(items.values)) for name, items in found.items()}
    if different := [name for name in ids if ids[name] != ids["policy"]]:
        raise BadInput(
            f"the benchmark {task} has other items or metrics for {different[0]} than for the"
            " policy; expected the same ones. Its task depends on the model: correct it."
        )


def _compare(task: str, metric: str, values: dict[str, Tensor], seed: int) -> Output:
    policy_N = values["policy"]
    parts = [_mean(BenchmarkMetric(task, metric, name), v_N, seed) for name, v_N in values.items()]
    gain_N = policy_N - values["sft"]
    gain, interval = BenchmarkMetric(task, metric, GAIN), bootstrap_mean(gain_N, seed=seed)
    if gain.is_share:
        interval = widened(interval, gain_N.numpy(), None)
    parts.append(with_interval(gain.name, float(gain_N.mean()), interval))
    if "champion" in values:
        name = BenchmarkMetric(task, metric, WINS).name
        parts.append(with_interval(name, *win_rate(policy_N, values["champion"])))
    return combined(parts, len(policy_N))


def _mean(metric: BenchmarkMetric, values_N: Tensor, seed: int) -> Output:
    mean, n = float(values_N.mean()), len(values_N)
    if metric.is_share:
        return with_interval(metric.name, mean, wilson(float(values_N.sum()), n))
    return with_interval(metric.name, mean, bootstrap_mean(values_N, seed=seed))


def benchmark_columns(found: ItemsByModel) -> Columns:
    """Return one benchmark's rows of items.parquet (rlhf_core/evidence/items.py)."""
    policy = found["policy"]
    columns: Columns = {"prompt_id": policy.ids, "prompt": policy.prompts, TARGET: policy.targets}
    for name, items in found.items():
        columns[f"{name}_reply"] = items.replies
        for metric, values in items.values.items():
            columns[BenchmarkMetric("", metric, name).column(name)] = values
    return columns
