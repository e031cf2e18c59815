"""Krippendorff's alpha of votes: hand-computed values, guessing annotators, coverage."""

import math

import krippendorff
import numpy as np
import pytest

from rlhf_core.statistics.agreement import agreement, pair_agreement
from rlhf_core.statistics.clusters import clusters_of
from rlhf_core.statistics.intervals import wilson

TRIALS = 120


def test_alpha_by_hand():
    """Pairs 2:0, 1:1: half of the votes' pairs agree; 4 votes, so 1 - 1/2 * 7/4 = 1/8."""
    found = agreement(np.array([2, 1]), np.array([0, 1]))
    assert found.alpha == pytest.approx(1 / 8) and found.n == 2
    assert (found.low, found.high) == (-1.0, 1.0)  # two pairs say nothing of other pairs


def test_alpha_is_that_of_the_package_where_sides_are_exchanged_at_random():
    """The sides of 5,000 pairs are drawn by a coin, as if no label had sorted them."""
    generator = np.random.default_rng(0)
    votes_for = generator.binomial(3, 0.9, 5000)
    label = np.maximum(votes_for, 3 - votes_for)
    found = agreement(label, 3 - label)
    coin = generator.random(5000) < 0.5
    counts = np.stack([np.where(coin, label, 3 - label), np.where(coin, 3 - label, label)], 1)
    alpha = krippendorff.alpha(value_counts=counts, level_of_measurement="nominal")
    assert found.alpha == pytest.approx(float(alpha), abs=3e-3)
    assert found.low < found.alpha < found.high


def guessed(generator, pairs: int, votes: int) -> tuple[np.ndarray, np.ndarray]:
    first = generator.binomial(votes, 0.5, pairs)
    return np.maximum(first, votes - first), np.minimum(first, votes - first)


@pytest.mark.parametrize("votes", [2, 3])
def test_guessing_has_an_alpha_of_zero_though_most_votes_are_with_the_majority(votes):
    sides = guessed(np.random.default_rng(10 + votes), 4000, votes)
    assert sides[0].sum() / 4000 / votes == pytest.approx(0.75, abs=0.01)
    found = agreement(*sides)
    assert found.alpha == pytest.approx(0, abs=0.05) and found.low < 0 < found.high


def test_the_interval_covers_an_alpha_of_zero_as_stated():
    generator, covered = np.random.default_rng(7), 0
    for _ in range(TRIALS):
        found = agreement(*guessed(generator, 100, 3))
        covered += found.low <= 0 <= found.high
    assert covered / TRIALS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def test_single_votes_say_nothing_and_shared_prompts_widen_the_interval():
    assert agreement(np.ones(5), np.zeros(5)) is None
    votes_for, votes_against = np.repeat([3, 2] * 30, 4), np.repeat([0, 1] * 30, 4)
    alone = agreement(votes_for, votes_against)
    shared = agreement(votes_for, votes_against, clusters_of([i // 4 for i in range(240)]))
    assert shared.alpha == alone.alpha and shared.n == 240
    assert shared.high - shared.low > 1.8 * (alone.high - alone.low)


def test_unanimous_votes_leave_room_for_what_so_few_pairs_cannot_show():
    """Of 20 pairs none is split: by the binomial tail up to 1 - 0.025^(1/20) = 17% of all may be.

    A pair of three votes that is split has a disagreement of 2 / 3, by chance it is 60 / 119.
    Bug: the bootstrap's interval was 1 to 1.
    """
    three = agreement(np.full(20, 3), np.zeros(20))
    split = 1 - 0.025 ** (1 / 20)
    assert (three.alpha, three.high) == (1.0, 1.0)
    assert three.low == pytest.approx(1 - split * 2 / 3 / (60 / 119))
    two = agreement(np.full(20, 2), np.zeros(20))
    assert two.low == pytest.approx(1 - split / (40 / 79)) and two.low < three.low
    many = agreement(np.full(2000, 2), np.zeros(2000))
    assert 0.99 < many.low < 1.0


def test_votes_that_are_all_split_leave_room_too():
    found = agreement(np.ones(20), np.ones(20))
    assert found.low == pytest.approx(found.alpha)
    assert found.high == pytest.approx(1 - 0.025 ** (1 / 20) / (40 / 79))


def test_unanimous_votes_on_shared_prompts_count_a_prompt_once():
    alone = agreement(np.full(40, 2), np.zeros(40))
    shared = agreement(np.full(40, 2), np.zeros(40), clusters_of([i // 4 for i in range(40)]))
    assert shared.low < alone.low and shared.high == 1.0


@pytest.mark.parametrize("split", [0.01, 0.05])
def test_the_interval_of_rare_disagreement_covers_as_stated(split):
    """Pairs of two votes: alpha = 1 - 2 * P(split). The bootstrap alone covers 39% at 1%."""
    generator, covered = np.random.default_rng(4), 0
    for _ in range(TRIALS):
        against = (generator.random(50) < split).astype(float)
        found = agreement(2 - against, against)
        covered += found.low <= 1 - 2 * split <= found.high
    assert covered / TRIALS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)


def test_an_interval_of_many_split_pairs_is_the_bootstrap_alone():
    votes = np.repeat([2, 1], [40, 20]), np.repeat([0, 1], [40, 20])
    found = agreement(*votes)
    assert (found.low, found.high) == pytest.approx((0.104, 0.568), abs=1e-3)


def test_two_raters_by_hand_and_as_votes_of_two_annotators():
    """Of six pairs one has a tie, one no verdict; on three of four left both say the same."""
    judge = np.array([1, 1, 0, 1, 0.5, math.nan])
    people = np.ones(6)
    found = pair_agreement(judge, people)
    assert (found.share, found.n) == (0.75, 4) and found.share_interval == wilson(3, 4)
    votes = agreement(judge[:4] + people[:4], 2 - judge[:4] - people[:4])
    assert found.alpha == pytest.approx(votes.alpha)
    assert found.alpha == pytest.approx(1 - 0.25 * (2 - 1 / 8))
    low, high = found.alpha_interval
    assert low == pytest.approx(1 - (1 - wilson(3, 4)[0]) * 1.875) and low < found.alpha < high


def test_raters_without_a_common_preference_have_no_agreement():
    assert pair_agreement(np.array([0.5, math.nan, 1]), np.array([1, 1, 0.5])) is None


def test_raters_of_pairs_that_share_a_prompt_are_less_certain():
    judge = np.repeat([1, 0, 1, 1] * 10, 4)
    alone = pair_agreement(judge, np.ones(160))
    shared = pair_agreement(judge, np.ones(160), clusters_of([i // 4 for i in range(160)]))
    assert shared.alpha == alone.alpha
    assert shared.alpha_interval[0] < alone.alpha_interval[0]


def test_the_interval_of_two_raters_covers_as_stated():
    generator, covered = np.random.default_rng(3), 0
    for _ in range(1000):
        found = pair_agreement((generator.random(80) < 0.8).astype(float), np.ones(80))
        low, high = found.alpha_interval
        covered += low <= 0.6 <= high
    assert covered / 1000 >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 1000)
