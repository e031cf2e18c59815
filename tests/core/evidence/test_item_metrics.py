"""Metrics computed from items equal those that the stages state.

By hand for an evaluation, against the code for a reward model.
"""

import numpy as np
import pytest
import torch
from gate_cases import ITEMS
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.config.gate_rules import GateRule
from rlhf_core.evidence.item_metrics import ITEM_METRICS, columns_of
from rlhf_core.evidence.item_terms import metric_terms
from rlhf_core.gates.measure import describe_computation, rule_terms
from rlhf_core.reward.heldout_pairs import PairScores, heldout_metrics
from rlhf_core.statistics.intervals import statistic

BY_HAND = {
    "eval/score_policy": 1.5,
    "eval/score_sft": 1.0,
    "eval/score_gain": 0.5,
    "eval/win_rate": 0.625,
    "eval/win_rate_vs_champion": 0.625,
    "eval/win_rate_vs_champion_by_its_reward": 0.375,
    "eval/independent_win_rate_vs_champion": 0.625,
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


def test_every_item_metric_can_be_said_in_words():
    for metric in ITEM_METRICS:
        rule = GateRule.model_construct(metric=metric, minus=None, versus=None, method="auto")
        assert (
            any(column in describe_computation(rule) for column in columns_of(metric))
            or ITEM_METRICS[metric].kind == "minus"
        )
