"""The area under the ROC curve: by hand, its interval's coverage, and items that share a prompt."""

import numpy as np
import pytest

from rlhf_core.statistics.auc import area, auc, auc_difference

SCORES = np.array([3.0, 1.0, 2.0, 2.0, 0.0])
GOOD = np.array([True, True, False, True, False])


def test_it_is_the_share_of_pairs_that_are_ranked_right_with_half_for_a_tie():
    pairs = [(g > b) + 0.5 * (g == b) for g in SCORES[GOOD] for b in SCORES[~GOOD]]
    assert area(SCORES, GOOD) == pytest.approx(sum(pairs) / len(pairs)) == auc(SCORES, GOOD).value


def test_a_perfect_ranking_has_an_interval_with_width_and_so_has_the_worst():
    scores, good = np.arange(40.0), np.arange(40) >= 20
    best, worst = auc(scores, good), auc(-scores, good)
    assert best.value == best.high == 1 and 0.8 < best.low < 0.95
    assert worst == pytest.approx((0, 0, 1 - best.low))


def test_without_one_of_the_labels_there_is_no_area():
    with pytest.raises(ValueError, match="5 good and 0 bad items; expected at least one of each"):
        auc(SCORES, np.ones(5, bool))


@pytest.mark.parametrize(("gap", "expected"), [(0.0, 0.5), (1.0, 0.7602), (3.0, 0.9831)])
def test_the_interval_covers_the_true_area_in_95_of_100_samples(gap, expected):
    """Normal scores of 60 good and 40 bad items: the area is Phi(gap / sqrt 2)."""
    rng, good, inside = np.random.default_rng(1), np.arange(100) < 60, 0
    for _ in range(400):
        found = auc(rng.normal(size=100) + gap * good, good)
        inside += found.low <= expected <= found.high
    assert 0.93 <= inside / 400 <= 0.995


def test_six_equal_items_of_a_prompt_say_as_much_as_one():
    rng = np.random.default_rng(2)
    scores, good = rng.normal(size=80), np.arange(80) % 2 == 0
    once = auc(scores + good, good, np.arange(80))
    six = auc(np.repeat(scores + good, 6), np.repeat(good, 6), np.repeat(np.arange(80), 6))
    assert six.value == pytest.approx(once.value)
    assert six.high - six.low == pytest.approx(once.high - once.low, rel=0.1)
    alone = auc(np.repeat(scores + good, 6), np.repeat(good, 6))
    assert alone.high - alone.low < 0.6 * (six.high - six.low)
    assert auc(scores, good, np.zeros(80, int))[1:] == (0, 1)


def test_the_difference_of_two_scores_is_paired():
    rng = np.random.default_rng(3)
    scores, good = rng.normal(size=200), np.arange(200) % 2 == 0
    first = scores + good
    same = auc_difference(first, first, good)
    assert same == (0, 0, 0)
    near = auc_difference(first, first + 0.1 * rng.normal(size=200), good)
    far = auc_difference(first, rng.normal(size=200), good)
    assert near.high - near.low < 0.3 * (far.high - far.low) and far.low > 0.05
