"""Evidence of two runs, paired on the items that both have."""

from dataclasses import replace

import pytest

from rlhf_core.evidence.items import Columns
from tasks.analysis.comparability import no_common_scale
from tasks.analysis.metric_rows import metric_rows
from tasks.analysis.pairing import join, paired_finding
from tasks.analysis.run_evidence import RunEvidence, StageEvidence

ACC = "eval/benchmark/t/acc_policy"
N = 60


def run(name: str, right: int, files: str = "v1", first: int = 0) -> RunEvidence:
    """Return a run whose policy is right on the first `right` of N items of a benchmark."""
    rows: Columns = {
        "prompt_id": [f"t/{first + k}" for k in range(N)],
        "policy_benchmark_acc": [float(k < right) for k in range(N)],
    }
    inputs = {"benchmark_t": {"digest": files}, "prompts_heldout": {"digest": "p"}}
    stage = StageEvidence(
        "evaluate",
        "FINISHED",
        spec={"inputs": inputs, "config": {"evaluate": {"benchmarks": {"chat_template": True}}}},
        result={"digest": name, "metrics": {ACC: right / N}, "counts": {ACC: N}},
        items={"prompt_id": ["a", "b"], "policy_score": [1.0, 2.0]},
        benchmarks={"t": rows},
    )
    return RunEvidence(name, "FINISHED", {}, stages={"evaluate": stage})


def test_a_benchmark_is_compared_on_the_items_that_both_runs_answered():
    found = paired_finding(ACC, run("first", 50), run("second", 30))
    assert found is not None and found.n == N and found.verdict == "significant"
    assert found.difference == pytest.approx(-20 / N) and "McNemar" in found.method
    (row,) = metric_rows([run("first", 50), run("second", 30)])
    assert row.metric == ACC and row.against[0].better is False
    few = paired_finding(ACC, run("first", 50), run("second", 30, first=30))
    assert few is not None and few.n == 30


def test_two_versions_of_a_benchmark_have_no_common_scale():
    first, second = run("first", 50), run("second", 30)
    assert no_common_scale(ACC, first, second) is None
    assert "two different versions" in str(no_common_scale(ACC, first, run("c", 30, files="v2")))
    stage = second.stages["evaluate"]
    plain = {**stage.spec, "config": {"evaluate": {"benchmarks": {"chat_template": False}}}}
    plainly = replace(second, stages={"evaluate": replace(stage, spec=plain)})
    assert "settings of the benchmark" in str(no_common_scale(ACC, first, plainly))


def test_the_prompts_of_pairs_are_those_of_the_first_run_whatever_the_second_one_names():
    """Bug: a run of an older version, whose pairs have no prompt_id, could only be the first."""
    new = {"pair_id": ["a", "b"], "prompt": ["p", "p"], "prompt_id": ["x", "x"]}
    old = {"pair_id": ["a", "b"], "prompt": ["p", "p"]}
    for tables in ([new, old], [old, new]):
        joined = join(tables, "pair_id")
        assert joined is not None and joined.clusters.tolist() == [0, 0]
