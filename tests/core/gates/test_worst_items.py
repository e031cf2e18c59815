"""The items that count most against a gate."""

import pytest
from gate_cases import ITEMS

from rlhf_core.config.gate_rules import GateRule
from rlhf_core.gates.worst_items import worst_items
from rlhf_core.rundir import StageResult


def worst(
    tmp_path,
    metric: str,
    *,
    stage: str = "evaluate",
    items: dict = ITEMS,
    files: dict | None = None,
    **rule,
) -> list:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.table(items), tmp_path / "items.parquet")
    result = StageResult(
        stage=stage, digest="d", seconds=1.0, files={"items": "items.parquet"} | (files or {})
    )
    full = {"bound": "at least", "threshold": 0.0} | rule
    table = worst_items(GateRule(stage=stage, metric=metric, **full), result, tmp_path)
    return [dict(zip(table["columns"], row, strict=True)) for row in table["data"]]


def test_lost_prompts_come_first_and_won_ones_not_at_all(tmp_path):
    found = worst(tmp_path, "eval/win_rate")
    assert [(row["prompt"], row["margin"]) for row in found] == [("C?", -1.0), ("B?", 0.0)]
    assert (
        found[0]["policy_reply"] == "pc"
        and found[0]["sft_reply"] == "sc"
        and "champion_reply" not in found[0]
    )


@pytest.mark.parametrize(
    ("metric", "rule", "order"),
    [
        ("eval/kl_per_response", {"bound": "at most"}, "DCBA"),
        ("eval/score_gain", {}, "CBAD"),
        ("eval/length_ratio", {"bound": "at most"}, "DBCA"),
        ("eval/no_eos_policy", {"bound": "at most"}, "D"),
        ("eval/judge_win_rate", {}, "DC"),
        ("eval/score_policy", {"versus": "champion"}, "BCAD"),
        ("eval/score_policy", {"minus": "eval/score_sft"}, "CBAD"),
    ],
)
def test_the_worst_items_of_a_rule(tmp_path, metric, rule, order):
    assert "".join(row["prompt"][0] for row in worst(tmp_path, metric, **rule)) == order


def test_the_most_confident_wrong_pairs_come_first(tmp_path):
    items = {
        "pair_id": list("abcd"),
        "prompt": ["p"] * 4,
        "chosen": ["good"] * 4,
        "rejected": ["bad"] * 4,
        "chosen_score": [1.0, 0.0, -3.0, 0.5],
        "rejected_score": [0.0, 0.0, 2.0, 1.0],
        "chosen_tokens": [3, 3, 3, 1],
        "rejected_tokens": [2, 2, 2, 2],
    }
    found = worst(tmp_path, "reward/accuracy", stage="reward", items=items)
    assert [(row["pair_id"], row["margin"]) for row in found] == [
        ("c", -5.0),
        ("d", -0.5),
        ("b", 0.0),
    ]
    shorter = worst(tmp_path, "reward/accuracy_when_shorter", stage="reward", items=items)
    assert [row["pair_id"] for row in shorter] == ["d"]


def test_a_detectors_own_table_is_shown_for_its_metric(tmp_path):
    (tmp_path / "worst_length.table.json").write_text(
        '{"columns": ["badness", "prompt"], "data": [[2.5, "X?"]]}'
    )
    found = worst(
        tmp_path, "eval/length_correlation", files={"worst_length": "worst_length.table.json"}
    )
    assert found == [{"badness": 2.5, "prompt": "X?"}]


def test_the_worst_prompts_against_the_best_of_n_show_both_replies(tmp_path):
    lost, *_ = worst(tmp_path, "eval/win_rate_vs_best_of_n")
    assert (lost["prompt"], lost["margin"], lost["policy_reply"], lost["best_of_n_reply"]) == (
        "C?",
        -1.0,
        "pc",
        "bc",
    )
