"""Intervals against published and hand-computed values."""

import pytest
import torch

from rlhf_core.batch import Sequence
from rlhf_core.evaluate import repetition
from rlhf_core.reward import heldout_metrics, pair_scores
from rlhf_core.stats import bootstrap_mean, calibration_error, wilson, win_rate


def test_wilson_interval_of_81_in_263():
    """Newcombe 1998, table I, method 3: 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(("successes", "n", "expected"), [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (0, 0, (0, 1))])
def test_wilson_interval_at_the_ends(successes, n, expected):
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


def test_a_tie_counts_one_half_in_the_win_rate():
    assert win_rate(torch.tensor([1.0, 0.0, 2.0, 0.0]), torch.tensor([0.0, 0.0, 3.0, -1.0]))[0] == 0.625


def test_bootstrap_interval_covers_the_mean_and_repeats_with_its_seed():
    values = torch.arange(100.0)
    low, high = bootstrap_mean(values, seed=1)
    assert 40 < low < 49.5 < high < 59
    assert bootstrap_mean(values, seed=1) == (low, high)


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
