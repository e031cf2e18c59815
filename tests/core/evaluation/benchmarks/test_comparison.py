"""A benchmark's metrics and item rows, by hand."""

import numpy as np
import pytest

from rlhf_core.config import Contest
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.errors import BadInput
from rlhf_core.evaluation.benchmarks.comparison import benchmark_columns, compare_benchmark
from rlhf_core.evaluation.benchmarks.harness import BenchmarkItems
from rlhf_core.evidence.items import read_benchmarks, read_items, with_benchmarks, write_items
from rlhf_core.gates.measure import measure
from rlhf_core.gates.worst_items import worst_items
from rlhf_core.rundir import StageResult
from rlhf_core.statistics.intervals import wilson

ACC, F1 = "eval/benchmark/t/acc", "eval/benchmark/t/f1"
N = 20


def items(right: int, f1: float = 0.5, ids: str = "t") -> BenchmarkItems:
    return BenchmarkItems(
        ids=[f"{ids}/{k}" for k in range(N)],
        prompts=[f"q{k}" for k in range(N)],
        targets=["yes"] * N,
        replies=["yes"] * right + ["no"] * (N - right),
        values={"acc": [1.0] * right + [0.0] * (N - right), "f1": [f1] * N},
    )


def test_the_metrics_are_means_a_paired_difference_and_a_win_rate():
    models = {"policy": items(14, 0.75), "sft": items(18), "champion": items(10, 0.5)}
    found = compare_benchmark("t", models, seed=1)
    assert found.metrics[f"{ACC}_policy"] == 0.7 and found.metrics[f"{ACC}_sft"] == 0.9
    assert found.metrics[f"{ACC}_champion"] == 0.5
    assert found.metrics[f"{ACC}_gain"] == pytest.approx(-0.2)
    assert found.metrics[f"{ACC}_win_rate_vs_champion"] == (4 + 16 / 2) / N
    assert found.metrics[f"{F1}_gain"] == 0.25
    assert found.metrics[f"{F1}_win_rate_vs_champion"] == 1.0
    assert found.intervals[f"{ACC}_policy"] == wilson(14, N)
    low, high = found.intervals[f"{ACC}_gain"]
    drops = np.array([0.0] * 14 + [-1.0] * 4 + [0.0] * 2)
    means = np.random.default_rng(0).choice(drops, (20_000, N)).mean(-1)
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.051)
    assert found.metrics[f"{ACC}_gain_lower"] == low < -0.2 < high
    assert set(found.counts.values()) == {N} and found.counts.keys() == found.metrics.keys()


def test_without_a_champion_there_is_no_comparison_with_one():
    found = compare_benchmark("t", {"policy": items(14), "sft": items(14)}, seed=1)
    assert not any("champion" in name for name in found.metrics)
    assert found.metrics[f"{ACC}_gain"] == 0.0


def test_models_that_were_asked_other_items_are_not_compared():
    with pytest.raises(BadInput, match="t has other items or metrics for sft"):
        compare_benchmark("t", {"policy": items(1), "sft": items(1, ids="u")}, seed=1)


def test_its_rows_stand_below_the_prompts_and_are_read_apart(tmp_path):
    rows = benchmark_columns({"policy": items(14), "sft": items(18)})
    prompts = {"prompt_id": ["a", "b"], "prompt": ["A", "B"], "policy_ended": [True, False]}
    prompts |= {"policy_tokens": [3, 4], "policy_reply": ["x", "y"], "sft_reply": ["v", "w"]}
    write_items(tmp_path, with_benchmarks(prompts, {"t": rows, "u": rows}))
    assert read_items(tmp_path / "items.parquet") == prompts
    found = read_benchmarks(tmp_path / "items.parquet")
    assert list(found) == ["t", "u"] and found["t"] == rows
    assert rows["policy_benchmark_acc"] == [1.0] * 14 + [0.0] * 6


@pytest.fixture
def evaluated(tmp_path) -> StageResult:
    """Write the items of two prompts and of a benchmark; return the stage's result."""
    models = {"policy": items(14), "sft": items(18), "champion": items(10)}
    prompts = {"prompt_id": ["a", "b"], "prompt": ["A", "B"], "policy_score": [1.0, 2.0]}
    files = write_items(tmp_path, with_benchmarks(prompts, {"t": benchmark_columns(models)}))
    found = compare_benchmark("t", models, seed=1)
    metrics = {**found.metrics, "eval/score_policy": 1.5}
    return StageResult(
        stage="evaluate",
        digest="d",
        seconds=1.0,
        metrics=metrics,
        counts={**found.counts, "eval/score_policy": 2},
        intervals=found.intervals,
        files=files,
    )


def rule(metric: str, **changes: object) -> GateRule:
    given = {"stage": "evaluate", "metric": metric, "bound": "at least", "threshold": 0.0}
    return GateRule.model_validate(given | changes)


def test_gates_compute_a_benchmarks_numbers_from_its_own_items(evaluated, tmp_path):
    for name in (f"{ACC}_policy", f"{ACC}_gain", f"{F1}_sft", f"{ACC}_win_rate_vs_champion"):
        for confidence in (0.95, 0.9):
            found = measure(rule(name, confidence=confidence), evaluated, tmp_path)
            assert (found.problem, found.n) == (None, N), name
            assert found.value == pytest.approx(evaluated.metrics[name])
    wider = measure(rule(f"{ACC}_gain", confidence=0.99), evaluated, tmp_path)
    assert wider.interval[0] <= evaluated.intervals[f"{ACC}_gain"][0] < 0
    paired = measure(rule(f"{ACC}_policy", minus=f"{ACC}_sft", of="lower"), evaluated, tmp_path)
    # 4 of 20 items changed, all downwards: McNemar's exact test has p = 0.125, so 0 is no surprise
    assert paired.value == pytest.approx(-0.2)
    assert paired.interval == pytest.approx((-0.417, 0.0005), abs=1e-3)
    assert paired.interval == pytest.approx(evaluated.intervals[f"{ACC}_gain"], abs=1e-9)
    against = rule(f"{ACC}_policy", versus="champion", of="lower")
    assert measure(against, evaluated, tmp_path).value == pytest.approx(0.2)
    prompts = measure(rule("eval/score_policy"), evaluated, tmp_path)
    assert (prompts.problem, prompts.value, prompts.n) == (None, 1.5, 2)


def test_a_contest_by_a_benchmark_leaves_out_the_items_that_both_answer_alike(evaluated, tmp_path):
    metric = f"{ACC}_win_rate_vs_champion"
    found = measure(Contest(metric=metric, min_n=1).rule(metric, 0.025), evaluated, tmp_path)
    assert (found.value, found.n) == (1.0, 4)


def test_the_items_that_the_policy_lost_are_shown_with_what_was_expected(evaluated, tmp_path):
    table = worst_items(rule(f"{ACC}_gain"), evaluated, tmp_path, count=4)
    rows = [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]
    assert [row["prompt"] for row in rows] == ["q14", "q15", "q16", "q17"]
    assert rows[0] | {"margin": -1.0} == rows[0]
    shown = (rows[0]["target"], rows[0]["policy_reply"], rows[0]["sft_reply"])
    assert shown == ("yes", "no", "yes")
