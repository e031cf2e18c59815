"""The shift of a sample from another: by hand, its invariances and its interval."""

import numpy as np
import pytest

from rlhf_core.statistics.shift import shift

OLD = np.array([0.0, 2.0])  # mean 1, standard deviation 1


@pytest.mark.parametrize(
    ("new", "mean", "distance", "spread"),
    [
        ([3.0, 5.0], 3.0, 3.0, 1.0),  # moved: distance = shift
        ([-1.0, 3.0], 0.0, 1.0, 2.0),  # spread alone: |0 - -1| and |2 - 3|
        ([0.0, 0.0, 2.0, 2.0], 0.0, 0.0, 1.0),
        # a quarter of the mass of 2 moves to 0, and a quarter to 6: (1/4 * 2 + 1/4 * 4)
        ([0.0, 0.0, 0.0, 6.0], 0.5, 1.5, 27**0.5 / 2),
        ([1.0], 0.0, 1.0, 0.0),
    ],
)
def test_it_is_in_standard_deviations_of_the_old_values_by_hand(new, mean, distance, spread):
    found = shift(np.array(new), OLD)
    assert (found.mean, found.distance) == pytest.approx((mean, distance))
    assert found.spread == pytest.approx(spread)


def test_the_scale_and_the_zero_of_the_values_do_not_matter():
    rng = np.random.default_rng(0)
    new, old = rng.normal(1, 2, 30), rng.normal(0, 1, 50)
    one, other = shift(new, old), shift(5 * new - 3, 5 * old - 3)
    assert (one.mean, one.distance, one.spread, *one.interval) == pytest.approx(
        (other.mean, other.distance, other.spread, *other.interval)
    )
    assert one.distance >= abs(one.mean) and shift(old, old).distance == 0


def test_its_interval_joins_two_intervals_of_student_by_hand():
    """Each mean of two values 1 from it has the error 1, and Student's t of one is 12.706."""
    low, high = shift(np.array([3.0, 5.0]), OLD).interval
    assert (low, high) == pytest.approx((3 - 12.7062 * 2**0.5, 3 + 12.7062 * 2**0.5), rel=1e-4)


def test_values_of_one_cluster_count_once():
    new = np.array([3.0, 5.0])
    once = shift(new, OLD)
    twice = shift(
        np.repeat(new, 2), np.repeat(OLD, 2), np.array([0, 0, 1, 1]), np.array([0, 0, 1, 1])
    )
    assert twice.interval == pytest.approx(once.interval)
    assert shift(np.repeat(new, 2), np.repeat(OLD, 2)).interval[0] > once.interval[0]


def test_one_cluster_alone_has_no_interval_and_equal_old_values_no_unit():
    assert shift(np.array([1.0, 2.0]), OLD, np.array([0, 0])).interval is None
    assert shift(OLD, np.array([0.1, 0.1, 0.1])) is None and shift(OLD, np.array([])) is None
