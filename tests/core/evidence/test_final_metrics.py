"""The metrics that a stage's result has, and those of them with an interval."""

import pytest

from rlhf_core.evidence.final_metrics import (
    final_metrics,
    has_recorded_interval,
    is_final,
    require_final,
)
from rlhf_core.evidence.item_metrics import ITEM_METRICS
from rlhf_core.metrics import METRICS
from rlhf_core.ppo.stage import SUMMARY


def test_the_means_over_the_last_steps_of_ppo_are_in_its_result_and_other_steps_are_not():
    assert all(is_final(f"ppo/{name}") for name in SUMMARY)
    assert not is_final("ppo/entropy_of_nothing") and not is_final("ppo/policy_loss")
    assert is_final("ppo/onpolicy_fall") and is_final("eval/win_rate")
    assert not is_final("sft/lr") and is_final("sft/heldout_loss")


def test_metrics_of_items_are_all_in_a_result():
    assert all(is_final(name) for name in ITEM_METRICS)
    assert "reward/accuracy" in final_metrics("reward/")
    assert "reward/lr" in METRICS and "reward/lr" not in final_metrics("reward/")


def test_a_metric_with_the_ends_of_its_interval_beside_it_has_one():
    assert has_recorded_interval("eval/judge_win_rate")
    assert has_recorded_interval("eval/judge_win_rate_lower")
    assert has_recorded_interval("sft/heldout_improvement")
    assert not has_recorded_interval("ppo/kl_per_response")


def test_a_result_with_names_that_gates_are_refused_on_fails():
    require_final(["sft/heldout_loss"], ["sft/heldout_improvement", "reward/accuracy_member_3"])
    with pytest.raises(KeyError, match="sft/loss"):
        require_final(["sft/loss"], [])
    with pytest.raises(KeyError, match="eval/distinct_2"):
        require_final([], ["eval/distinct_2"])
