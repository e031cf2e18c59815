"""Intervals against published and hand-computed values."""

import pytest
import torch

from rlhf_core.batching.batch import Sequence
from rlhf_core.evaluation.detectors import repetition
from rlhf_core.reward.heldout_pairs import heldout_metrics, pair_scores
from rlhf_core.statistics.summaries import bootstrap_mean, calibration_error, wilson, win_rate

BOOTSTRAP_95 = (44.06975, 55.2005)  # of 0..99 with seed 1, as first released


def test_wilson_interval_of_81_in_263():
    """Newcombe 1998, table I, method 3: 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (0, 0, (0, 1))],
)
def test_wilson_interval_at_the_ends(successes, n, expected):
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


def test_a_tie_counts_one_half_in_the_win_rate():
    assert (
        win_rate(torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 3.0, -1.0]))[0]
        == 0.625
    )


def test_bootstrap_interval_covers_the_mean_and_repeats_with_its_seed():
    values = torch.arange(100.0)
    low, high = bootstrap_mean(values, seed=1)
    assert 40 < low < 49.5 < high < 59
    assert bootstrap_mean(values, seed=1) == (low, high)


def test_bootstrap_numbers_of_the_default_confidence_have_not_changed():
    values = torch.arange(100.0)
    assert (
        bootstrap_mean(values, seed=1)
        == bootstrap_mean(values, seed=1, confidence=0.95)
        == BOOTSTRAP_95
    )
    low, high = bootstrap_mean(values, seed=1, confidence=0.8)
    assert BOOTSTRAP_95[0] < low < high < BOOTSTRAP_95[1]


def test_win_rate_interval_takes_a_confidence():
    ours, theirs = torch.tensor([1.0] * 8 + [0.0] * 2), torch.tensor([0.5] * 10)
    assert win_rate(ours, theirs)[1] == pytest.approx((0.4902, 0.9433), abs=5e-5)
    assert win_rate(ours, theirs, 0.9)[1] == pytest.approx((0.5408, 0.9314), abs=5e-5)


def test_calibration_error_of_a_certain_and_wrong_model_is_one():
    assert calibration_error(torch.full((20,), -50.0)) == pytest.approx(1.0)
    assert calibration_error(torch.full((20,), 50.0)) == pytest.approx(0.0)


def test_repeated_three_grams():
    assert repetition([1, 2, 3, 1, 2, 3]) == pytest.approx(1 / 4)
    assert repetition([1, 2]) == 0


def test_reward_metrics_by_hand_count_a_tie_as_wrong():
    lengths = [(3, 2), (2, 4), (2, 2), (1, 5)]
    sequences = [Sequence([5], [6] * n) for pair in lengths for n in pair]
    scores = torch.tensor([1.0, 0.0, 2.0, 2.0, 0.0, 1.0, 3.0, 0.0])
    found = heldout_metrics(pair_scores(scores, sequences))
    assert found["reward/accuracy"] == 0.5  # right, tie, wrong, right
    assert found["reward/length_baseline"] == pytest.approx(0.375)  # right, wrong, half, wrong
    assert found["reward/accuracy_when_shorter"] == 0.5  # pairs 2 and 4
    assert found["reward/heldout_margin"] == pytest.approx(0.75)
    # margins 1, 0, -1, 3 and token gaps 1, -2, 0, -4: covariance (1 + 0 + 0 - 12) / 4 - 0.75 *
    # -1.25
    assert found["reward/length_correlation"] == pytest.approx(-1.8125 / (2.1875 * 3.6875) ** 0.5)
