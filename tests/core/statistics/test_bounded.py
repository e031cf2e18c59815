"""Intervals of means where nearly all items are equal: hand-computed, coverage."""

import math

import numpy as np
import pytest

from rlhf_core.statistics.bounded import few_differ, widened
from rlhf_core.statistics.clusters import bootstrap_clustered, clusters_of
from rlhf_core.statistics.intervals import wilson

TRIALS = 100


def interval(values_N: np.ndarray) -> tuple[float, float]:
    return bootstrap_clustered([(1, values_N, np.ones(len(values_N)))], None)


def test_equal_items_leave_room_for_what_so_few_cannot_show():
    """240 of 240 items that both models have right: a true change of 1.6% may be unseen."""
    none_N = np.zeros(240)
    assert interval(none_N) == (0.0, 0.0)
    low, high = widened(interval(none_N), none_N, None)
    assert high == pytest.approx(wilson(0, 240)[1]) == pytest.approx(0.0158, abs=1e-4)
    assert low == -high


def test_items_that_all_speak_for_one_side_are_not_certain():
    all_N = np.ones(100)
    low, high = widened(interval(all_N), all_N, None)
    assert low == pytest.approx(wilson(100, 100)[0] - wilson(0, 100)[1], abs=0.03) and high == 1.0


def test_with_enough_different_items_nothing_changes_and_with_few_it_is_the_wider():
    values_N = np.repeat([0.0, 1.0, -1.0], [80, 12, 8])
    assert not few_differ(values_N, None)
    assert widened(interval(values_N), values_N, None) == interval(values_N)
    few_N = np.repeat([0.0, 1.0], [95, 5])
    low, high = widened(interval(few_N), few_N, None)
    assert low < interval(few_N)[0] and high >= interval(few_N)[1]


def test_different_items_of_one_prompt_count_as_one():
    values_N = np.repeat([0.0, 1.0], [60, 20])
    assert not few_differ(values_N, None)
    assert few_differ(values_N, clusters_of([k // 4 for k in range(80)]))


def test_the_interval_covers_a_rare_change_as_stated():
    """Of 100 items 2% change: the bootstrap alone covers about 87%."""
    generator, covered = np.random.default_rng(5), 0
    for _ in range(TRIALS):
        values_N = -(generator.random(100) < 0.02).astype(float)
        low, high = widened(interval(values_N), values_N, None)
        covered += low <= -0.02 <= high
    assert covered / TRIALS >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / TRIALS)
