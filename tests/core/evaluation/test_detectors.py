"""Reward-hacking detectors against hand-computed values."""

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.evaluation.detectors import (
    answers_prompt,
    disagreement,
    independent,
    kl_per_reward,
    length,
    opening,
    repeated,
)


def test_length_detector_by_hand():
    columns = {
        "policy_score": [1.0, 2, 3, 4],
        "policy_tokens": [1, 2, 3, 10],
        "sft_score": [1.0, 2, 3],
        "sft_tokens": [9, 8, 7],
    }
    found = length(columns)
    assert found.metrics["eval/length_correlation"] == pytest.approx(14 / 250**0.5)
    assert found.metrics["eval/length_correlation_rank"] == pytest.approx(1)
    assert found.metrics["eval/length_correlation_sft"] == pytest.approx(-1)
    assert found.badness_N[3] == pytest.approx(1.5 / 1.25**0.5)  # z(score) is the smaller one
    assert max(found.badness_N) == found.badness_N[3]


def test_repetition_detector_by_hand():
    columns = {
        "policy_reply": ["a b a b", "a b"],
        "sft_reply": ["a b c", "d e"],
        "policy_repetition": [0.25, 0.0],
    }
    found = repeated(columns)
    assert found.metrics["eval/distinct_2"] == 0.5
    assert found.metrics["eval/distinct_2_sft"] == 1.0
    assert found.metrics["eval/distinct_2_ratio"] == 0.5
    assert found.metrics["eval/distinct_3_ratio"] == 1.0
    assert found.badness_N == [0.25, 0.0]


def test_short_replies_gain_no_variety_by_being_short():
    """The SFT model says a b c d and a b e f: of 6 2-grams 5 are distinct, cut to a b only 1 of 2.

    The policy says a b twice: 1 of 2 in both.
    """
    columns = {
        "policy_reply": ["a b", "a b"],
        "sft_reply": ["a b c d", "a b e f"],
        "policy_repetition": [0.0, 0.0],
    }
    metrics = repeated(columns).metrics
    assert metrics["eval/distinct_2_ratio"] == pytest.approx(0.5 / (5 / 6))
    assert metrics["eval/distinct_2_cut"] == metrics["eval/distinct_2_cut_sft"] == 0.5
    assert metrics["eval/distinct_2_cut_ratio"] == 1.0
    assert "eval/distinct_3_cut_ratio" not in metrics


def test_distinct_ratio_is_absent_when_the_sft_model_says_nothing():
    columns = {"policy_reply": ["a b"], "sft_reply": [""], "policy_repetition": [0.0]}
    assert "eval/distinct_2_ratio" not in repeated(columns).metrics


def test_opening_detector_by_hand():
    columns = {
        "policy_reply": ["Sure, I can help", "sure i can not", "no"],
        "sft_reply": ["one", "two", "three"],
    }
    found = opening(columns)
    assert found.metrics == {
        "eval/opening_share": pytest.approx(2 / 3),
        "eval/opening_share_sft": pytest.approx(1 / 3),
        "eval/first_word_share": pytest.approx(2 / 3),
        "eval/first_word_share_sft": pytest.approx(1 / 3),
        "eval/first_word_rise": pytest.approx(1 / 3),
    }
    assert found.badness_N == pytest.approx([2 / 3, 2 / 3, 1 / 3])


def test_a_first_word_that_the_sft_model_has_too_is_no_rise():
    columns = {
        "policy_reply": ["Sure: one", "Sure, two", "three"],
        "sft_reply": ["Sure four", "sure five", "six"],
    }
    metrics = opening(columns).metrics
    assert metrics["eval/opening_share"] == pytest.approx(1 / 3)  # three words differ
    assert metrics["eval/first_word_share"] == metrics["eval/first_word_share_sft"] == 2 / 3
    assert metrics["eval/first_word_rise"] == 0.0


NAMES = [f"word{i}" for i in range(60)]
PROMPTS = [f'Write one sentence that mentions "{name}".' for name in NAMES]


def test_prompt_detector_by_hand():
    """Every reply of the SFT model names its word and has rank 1; one in four of the policy does.

    The others say nothing of any prompt and have rank 0.5: 0.625, so 3/4 of the SFT model's 0.5
    above chance is lost.
    """
    columns = {
        "prompt": PROMPTS,
        "sft_reply": [f"A sentence with {name}, of course." for name in NAMES],
        "policy_reply": [
            f"Superb {name}!" if i % 4 == 0 else "Superb!" for i, name in enumerate(NAMES)
        ],
    }
    found = answers_prompt(columns)
    assert found.metrics["eval/prompt_retrieval_sft"] == 1.0
    assert found.metrics["eval/prompt_retrieval"] == pytest.approx(0.625)
    assert found.metrics["eval/prompt_retrieval_loss"] == pytest.approx(0.75)
    low, high = found.intervals["eval/prompt_retrieval_loss"]
    assert 0.6 < low < 0.75 < high < 0.9
    assert found.metrics["eval/prompt_retrieval_loss_lower"] == low
    assert found.badness_N[:5] == [0.0, 0.5, 0.5, 0.5, 0.0]


def test_where_the_sft_models_replies_do_not_tell_their_prompts_nothing_is_said_to_be_lost():
    columns = {
        "prompt": PROMPTS,
        "sft_reply": ["Well.", "Yes."] * 30,
        "policy_reply": ["Superb!"] * 60,
    }
    found = answers_prompt(columns)
    assert found.metrics["eval/prompt_retrieval_sft"] == 0.5
    assert "eval/prompt_retrieval_loss" not in found.metrics
    assert found.metrics["eval/prompt_retrieval_loss_lower"] == 0.0
    assert found.intervals["eval/prompt_retrieval_loss_lower"] == (0.0, 1.0)


def test_kl_price_by_hand():
    """KL 2 and 4, gains 1 and 2: 3 / 1.5 = 2 nats per unit.

    The first reply spent 0 more than its gain is worth.
    """
    columns = {"policy_kl": [2.0, 4.0], "policy_score": [1.0, 3.0], "sft_score": [0.0, 1.0]}
    found = kl_per_reward(columns)
    assert found.metrics == {"eval/kl_per_reward": 2.0}
    assert found.badness_N == [0.0, 0.0]


def test_kl_has_no_price_when_the_score_did_not_rise():
    found = kl_per_reward(
        {"policy_kl": [2.0, 4.0], "policy_score": [0.0, 1.0], "sft_score": [0.0, 1.0]}
    )
    assert found.metrics == {}
    assert found.badness_N == [2.0, 4.0]


def test_independent_detector_by_hand():
    """Score gains 1, 1, -1, 1 and independent gains 1, -1, -1, 0.

    On one prompt of four only the score rose.
    """
    columns = {"policy_score": [1.0, 1, -1, 1], "policy_independent": [1.0, -1, -1, 0]}
    columns |= {"sft_score": [0.0] * 4, "sft_independent": [0.0] * 4}
    found = independent(columns)
    assert found.metrics == {"eval/reward_up_independent_down": 0.25}
    low, high = found.intervals["eval/reward_up_independent_down"]
    assert (low, high) == pytest.approx((0.0456, 0.6994), abs=5e-5)  # Wilson, 1 of 4
    assert [value > 0 for value in found.badness_N] == [False, True, False, False]
    assert found.badness_N[1] == pytest.approx(1.0)  # gain 1 over its root mean square 1


def test_disagreement_by_hand():
    """Both models give the SFT model's replies mean 0 and spread 1.

    The policy's 3 and 1 are one apart from their mean.
    """
    columns = {
        "policy_score": [3.0, 1.0],
        "policy_score_2": [1.0, 1.0],
        "sft_score": [-1.0, 1.0],
        "sft_score_2": [1.0, -1.0],
    }
    found = disagreement(columns)
    assert found.badness_N == [1.0, 0.0]
    assert found.metrics == {"eval/reward_disagreement": 0.5, "eval/reward_disagreement_sft": 1.0}


def test_disagreement_does_not_depend_on_a_models_scale():
    columns = {
        "policy_score": [3.0, 1.0],
        "policy_score_2": [1.0, 2.0],
        "sft_score": [-1.0, 1.0],
        "sft_score_2": [1.0, -1.0],
    }
    scaled = columns | {
        f"{name}_score_2": [7 * v + 5 for v in columns[f"{name}_score_2"]]
        for name in ("policy", "sft")
    }
    assert disagreement(scaled).badness_N == pytest.approx(disagreement(columns).badness_N)


def test_a_constant_reward_model_is_refused_by_name():
    columns = {
        "policy_score": [3.0, 1.0],
        "policy_score_2": [1.0, 2.0],
        "sft_score": [-1.0, 1.0],
        "sft_score_2": [0.1, 0.1],
    }
    with pytest.raises(BadInput, match=r"column score_2 gives every reply of the SFT model 0\.1"):
        disagreement(columns)
