"""Metrics computed from items equal those that the stages state.

By hand for an evaluation, against the code for a reward model.
"""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.config.gate_rules import GateRule
from rlhf_core.evidence.item_metrics import ITEM_METRICS, columns_of
from rlhf_core.evidence.item_terms import metric_terms
from rlhf_core.gates.measure import describe_computation, rule_terms
from rlhf_core.gates.worst_items import worst_items
from rlhf_core.reward.heldout_pairs import PairScores, heldout_metrics
from rlhf_core.rundir import StageResult
from rlhf_core.statistics.intervals import statistic

ITEMS = {
    "prompt_id": ["a", "b", "c", "d"],
    "prompt": ["A?", "B?", "C?", "D?"],
    "policy_reply": ["pa", "pb", "pc", "pd"],
    "sft_reply": ["sa", "sb", "sc", "sd"],
    "champion_reply": ["ca", "cb", "cc", "cd"],
    "policy_score": [2.0, 1.0, 0.0, 3.0],
    "sft_score": [1.0, 1.0, 1.0, 1.0],
    "champion_score": [1.0, 2.0, 0.0, 1.0],
    "policy_tokens": [4, 4, 8, 8],
    "sft_tokens": [4, 2, 4, 2],
    "champion_tokens": [2, 2, 4, 4],
    "policy_ended": [True, True, True, False],
    "sft_ended": [True, True, True, True],
    "champion_ended": [False] * 4,
    "policy_repetition": [0.1, 0.2, 0.3, 0.4],
    "sft_repetition": [0.0, 0.0, 0.2, 0.2],
    "policy_independent": [1.0, 2.0, 3.0, 4.0],
    "sft_independent": [2.0, 2.0, 2.0, 2.0],
    "best_of_n_reply": ["ba", "bb", "bc", "bd"],
    "best_of_n_score": [2.0, 1.0, 1.0, 2.5],
    "best_of_n_tokens": [4, 4, 4, 5],
    "best_of_n_independent": [2.0, 2.0, 2.0, 3.0],
    "policy_kl": [0.5, 1.0, 1.5, 3.0],
    "judge_vs_sft": [1.0, None, 0.5, 0.0],
    "judge_vs_champion": [1.0, 1.0, None, None],
}
BY_HAND = {
    "eval/score_policy": 1.5,
    "eval/score_sft": 1.0,
    "eval/score_gain": 0.5,
    "eval/win_rate": 0.625,
    "eval/win_rate_vs_champion": 0.625,
    "eval/kl_per_response": 1.5,
    "eval/length_policy": 6.0,
    "eval/length_sft": 3.0,
    "eval/length_ratio": 2.0,
    "eval/repetition_policy": 0.25,
    "eval/repetition_sft": 0.1,
    "eval/repetition_increase": 0.15,
    "eval/no_eos_policy": 0.25,
    "eval/no_eos_sft": 0.0,
    "eval/independent_policy": 2.5,
    "eval/independent_sft": 2.0,
    "eval/independent_gain": 0.5,
    "eval/judge_win_rate": 0.5,
    "eval/judge_win_rate_vs_champion": 1.0,
    "eval/score_best_of_n": 1.625,
    "eval/length_best_of_n": 4.25,
    "eval/independent_best_of_n": 2.25,
    "eval/win_rate_vs_best_of_n": 0.5,
}
VERSUS_CHAMPION = {  # policy less champion, by hand
    "eval/score_policy": 0.5,
    "eval/score_gain": 0.5,
    "eval/win_rate": 0.625 - 0.5,
    "eval/length_policy": 3.0,
    "eval/length_ratio": 1.0,
    "eval/no_eos_policy": -0.75,
    "eval/win_rate_vs_best_of_n": 0.5 - 0.25,
}


def numbers(columns: dict) -> dict:
    return {
        name: np.array(values, float)
        for name, values in columns.items()
        if not isinstance(values[0], str)
    }


@pytest.mark.parametrize("metric", [name for name in ITEM_METRICS if name.startswith("eval/")])
def test_every_metric_of_an_evaluation_by_hand(metric):
    assert statistic(metric_terms(metric, numbers(ITEMS))) == pytest.approx(BY_HAND[metric])


@pytest.mark.parametrize("metric", VERSUS_CHAMPION)
def test_the_same_of_the_champions_replies_is_taken_off(metric):
    rule = GateRule(
        stage="evaluate", metric=metric, bound="at least", threshold=0.0, versus="champion"
    )
    assert statistic(rule_terms(rule, numbers(ITEMS))) == pytest.approx(VERSUS_CHAMPION[metric])
    assert "less the same of the champion's replies" in describe_computation(rule)


@given(
    st.lists(
        st.tuples(*[st.integers(-2, 2)] * 2, *[st.integers(1, 3)] * 2), min_size=2, max_size=30
    )
)
def test_a_reward_models_metrics_are_those_of_its_items(pairs):
    names = ("chosen_score", "rejected_score", "chosen_tokens", "rejected_tokens")
    items = {
        name: np.array(values, float)
        for name, values in zip(names, zip(*pairs, strict=True), strict=True)
    }
    stated = heldout_metrics(PairScores(*(torch.tensor(items[name]) for name in names)))
    for metric in [
        name for name in ITEM_METRICS if name.startswith("reward/") and "_member_" not in name
    ]:
        found = statistic(metric_terms(metric, items))
        if (
            metric == "reward/accuracy_when_shorter"
            and not (items["chosen_tokens"] < items["rejected_tokens"]).any()
        ):
            assert np.isnan(found)  # a share of nothing, which no gate lets pass
        else:
            assert found == pytest.approx(stated[metric], abs=1e-6)


# the items that count most against a gate


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


def test_every_item_metric_can_be_said_in_words():
    for metric in ITEM_METRICS:
        rule = GateRule.model_construct(metric=metric, minus=None, versus=None, method="auto")
        assert (
            any(column in describe_computation(rule) for column in columns_of(metric))
            or ITEM_METRICS[metric].kind == "minus"
        )


def test_the_worst_prompts_against_the_best_of_n_show_both_replies(tmp_path):
    lost, *_ = worst(tmp_path, "eval/win_rate_vs_best_of_n")
    assert (lost["prompt"], lost["margin"], lost["policy_reply"], lost["best_of_n_reply"]) == (
        "C?",
        -1.0,
        "pc",
        "bc",
    )
