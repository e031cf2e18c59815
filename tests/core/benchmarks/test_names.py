"""The names of benchmarks' metrics, and the tables that declare them by their form."""

import math

import pytest

from rlhf_core.benchmarks.names import BenchmarkMetric, parse
from rlhf_core.evidence.item_metrics import (
    ITEM_METRICS,
    base_metric,
    benchmark_of,
    champion_column,
    columns_of,
    has_champion_value,
    is_against_champion,
    is_comparison,
    is_proportion,
)
from rlhf_core.metrics import METRICS, domain, in_order, require_declared

ACC = "eval/benchmark/my_task/acc_norm"


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        (f"{ACC}_policy", ("my_task", "acc_norm", "policy", "")),
        (f"{ACC}_gain_lower", ("my_task", "acc_norm", "gain", "_lower")),
        (f"{ACC}_win_rate_vs_champion", ("my_task", "acc_norm", "win_rate_vs_champion", "")),
        (
            "eval/benchmark/gsm8k.v2-x/exact_match-strict-match_sft_upper",
            ("gsm8k.v2-x", "exact_match-strict-match", "sft", "_upper"),
        ),
        ("eval/benchmark/my_task/acc", None),
        ("eval/benchmark/my_task/_policy", None),
        ("eval/benchmark/a/b/acc_policy", None),
        ("eval/win_rate", None),
    ],
)
def test_a_name_is_its_parts(name, parts):
    found = parse(name)
    assert found == (BenchmarkMetric(*parts) if parts else None)
    assert found is None or found.name == name
    assert (name in METRICS) is (parts is not None or name == "eval/win_rate")


def test_a_benchmarks_metric_has_unit_domain_meaning_and_is_declared():
    require_declared({f"{ACC}_policy": 0.5, f"{ACC}_gain_upper": 0.1})
    assert METRICS[f"{ACC}_policy"].unit == "share" and domain(f"{ACC}_policy") == (0, 1)
    assert domain(f"{ACC}_gain") == domain(f"{ACC}_gain_lower") == (-1, 1)
    assert METRICS["eval/benchmark/t/f1_policy"].unit == "value"
    assert domain("eval/benchmark/t/f1_gain") == (-math.inf, math.inf)
    assert domain("eval/benchmark/t/f1_win_rate_vs_champion") == (0, 1)
    assert (
        "acc_norm" in METRICS[f"{ACC}_sft"].meaning and "my_task" in METRICS[f"{ACC}_sft"].meaning
    )
    with pytest.raises(KeyError, match="eval/benchmark/t/acc"):
        require_declared({"eval/benchmark/t/acc": 0.5})


def test_the_tables_list_no_benchmark_and_order_them_last():
    assert not any("benchmark" in name for name in [*METRICS, *ITEM_METRICS])
    names = [f"{ACC}_sft", "eval/win_rate", f"{ACC}_policy", "sft/loss", "nothing"]
    assert in_order(names) == ["sft/loss", "eval/win_rate", f"{ACC}_policy", f"{ACC}_sft"]


def test_its_formula_is_of_the_benchmarks_items():
    assert columns_of(f"{ACC}_gain") == {"policy_benchmark_acc_norm", "sft_benchmark_acc_norm"}
    assert benchmark_of(f"{ACC}_policy") == "my_task" and benchmark_of("eval/win_rate") is None
    assert base_metric(f"{ACC}_gain_lower") == f"{ACC}_gain"
    assert is_proportion(f"{ACC}_policy") and not is_proportion("eval/benchmark/t/f1_policy")
    assert champion_column("policy_benchmark_acc_norm") == "champion_benchmark_acc_norm"
    assert has_champion_value(f"{ACC}_policy") and has_champion_value(f"{ACC}_gain")
    against = f"{ACC}_win_rate_vs_champion"
    assert is_against_champion(against) and is_comparison(against, paired=False)
