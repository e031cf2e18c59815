"""Intervals and tests against published values, slow oracles and properties of any data."""

import math
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from newcombe import newcombe

from rlhf_core.statistics.intervals import (
    MIN_BOOTSTRAP,
    bootstrap,
    clopper_pearson,
    resampled,
    sign_test,
    statistic,
    wilson,
)


@pytest.mark.parametrize(
    ("successes", "n", "confidence", "expected"),
    [
        (81, 263, 0.95, (0.2553, 0.3662)),  # Newcombe 1998, table I, method 3
        (15, 148, 0.95, (0.0624, 0.1605)),  # the same
        (8, 10, 0.95, (0.4902, 0.9433)),
        # z = 1.6449: (0.8 + 0.1353 +- 1.6449 sqrt(0.016 + 0.006764)) / 1.27055
        (8, 10, 0.90, (0.5408, 0.9314)),
        (0, 10, 0.99, (0.0, 0.3989)),  # z^2 / (n + z^2) = 6.6349 / 16.6349
    ],
)
def test_wilson_interval(successes, n, confidence, expected):
    assert wilson(successes, n, confidence) == pytest.approx(expected, abs=5e-5)


def test_wilson_interval_of_81_in_263():
    """Newcombe 1998, table I, method 3: 0.2553 to 0.3662."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)


@pytest.mark.parametrize(
    ("successes", "n", "expected"),
    [(0, 10, (0.0, 0.2775)), (10, 10, (0.7225, 1.0)), (0, 0, (0, 1))],
)
def test_wilson_interval_at_the_ends(successes, n, expected):
    assert wilson(successes, n) == pytest.approx(expected, abs=5e-5)


def test_the_default_wilson_interval_has_not_changed_in_any_digit():
    assert wilson(81, 263) == (0.2552885198782742, 0.36620957698280004)


@pytest.mark.parametrize(
    ("successes", "n", "confidence", "expected"),
    [
        (81, 263, 0.95, (0.2527, 0.3676)),  # Newcombe 1998, table I, method 5
        (0, 10, 0.95, (0.0, 0.3085)),  # 1 - 0.025^(1/10)
        (10, 10, 0.95, (0.6915, 1.0)),
        (1, 1, 0.90, (0.05, 1.0)),
        (0, 0, 0.95, (0.0, 1.0)),
    ],
)
def test_clopper_pearson_interval(successes, n, confidence, expected):
    assert clopper_pearson(successes, n, confidence) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(
    ("wins", "losses", "expected"),
    [(8, 2, 2 * (1 + 10 + 45) / 1024), (5, 0, 2 / 32), (0, 5, 2 / 32), (3, 3, 1.0), (0, 0, 1.0)],
)
def test_sign_test_by_hand(wins, losses, expected):
    assert sign_test(wins, losses) == pytest.approx(expected)


@given(st.integers(0, 300), st.integers(0, 300), st.sampled_from([0.8, 0.9, 0.95, 0.99]))
def test_the_exact_lower_bound_is_above_one_half_exactly_when_the_sign_test_rejects(
    wins, losses, confidence
):
    n = wins + losses
    tail = sum(math.comb(n, k) for k in range(wins, n + 1)) / 2**n  # P(X >= wins)
    assert (clopper_pearson(wins, n, confidence)[0] > 0.5) == (tail < (1 - confidence) / 2)


@given(st.integers(1, 2000), st.data(), st.floats(0.5, 0.99))
def test_intervals_hold_their_estimate_and_widen_with_confidence(n, data, confidence):
    successes = data.draw(st.integers(0, n))
    for interval in (wilson, clopper_pearson):
        low, high = interval(successes, n, confidence)
        wider_low, wider_high = interval(successes, n, confidence + 0.005)
        assert (
            0 <= wider_low <= low + 1e-12 <= successes / n + 2e-12
            and successes / n <= high + 1e-12 <= wider_high + 2e-12 <= 1 + 3e-12
        )


def mean(values) -> tuple[int, np.ndarray, np.ndarray]:
    values = np.asarray(values, float)
    return 1, values, np.ones(len(values))


def test_statistic_is_a_signed_sum_of_ratios():
    ratio = (1, np.array([2.0, 4.0]), np.array([1.0, 2.0]))
    assert statistic([ratio]) == 2.0  # 6 / 3
    assert statistic([ratio, (-1, *mean([1.0, 2.0])[1:])]) == 0.5
    assert math.isnan(statistic([(1, np.zeros(2), np.zeros(2))]))


def test_bootstrap_of_a_normal_sample_is_the_textbook_interval():
    values = np.random.default_rng(3).normal(2.0, 1.0, 400)
    half = 1.96 * values.std() / 20
    low, high = bootstrap([mean(values)])
    assert (low, high) == pytest.approx(
        (values.mean() - half, values.mean() + half), abs=0.05 * half
    )
    low90, high90 = bootstrap([mean(values)], 0.90)
    assert high90 - low90 == pytest.approx((high - low) * 1.645 / 1.96, rel=0.05)


def test_bootstrap_is_paired_and_repeats():
    base = np.random.default_rng(0).normal(0, 100, 50)
    terms = [mean(base + 1.0), (-1, *mean(base)[1:])]
    # the common part cancels on every resample
    assert bootstrap(terms) == pytest.approx((1.0, 1.0))
    assert (
        bootstrap([mean(base)], seed=5)
        == bootstrap([mean(base)], seed=5)
        != bootstrap([mean(base)], seed=6)
    )


def test_the_same_items_are_resampled_once_whatever_numbers_they_are():
    wins_N, ones_N = np.arange(40) % 3 == 0, np.ones(40)
    found_R = resampled([(1, wins_N, ones_N)], seed=5)
    assert resampled([(1, wins_N.astype(int), ones_N > 0)], seed=5) is found_R
    with pytest.raises(ValueError, match="read-only"):  # the next one to ask gets it too
        found_R[0] = 1.0
    wins_N[1] = True
    assert resampled([(1, wins_N, ones_N)], seed=5).mean() > found_R.mean()
    assert resampled([(-1, wins_N, ones_N)], seed=5).mean() < 0


def test_bootstrap_of_many_items_in_parts_is_still_about_the_mean():
    # 10,000 resamples of 1,500 do not fit in one part
    values = np.random.default_rng(1).normal(0, 1, 1500)
    low, high = bootstrap([mean(values)])
    assert low < values.mean() < high and high - low == pytest.approx(
        2 * 1.96 * values.std() / 1500**0.5, rel=0.05
    )


def test_too_few_items_have_no_bootstrap_interval():
    assert bootstrap([mean([1.0] * MIN_BOOTSTRAP)]) == (1.0, 1.0)
    with pytest.raises(ValueError, match="at least 10 items, there are 9"):
        bootstrap([mean([1.0] * (MIN_BOOTSTRAP - 1))])


TRIALS = 4000
ERROR = 3 * math.sqrt(0.95 * 0.05 / TRIALS)  # three standard errors of a simulated coverage


@pytest.mark.parametrize("share", [0.1, 0.5, 0.7, 0.95])
@pytest.mark.parametrize("n", [20, 100, 600])
def test_shares_are_covered_as_often_as_stated(share, n):
    """Wilson's covers a little less at some shares, the exact interval at none."""
    wins = np.random.default_rng(n).binomial(n, share, TRIALS).tolist()
    ends = {k: (wilson(k, n), clopper_pearson(k, n)) for k in set(wins)}

    def covered(method: int) -> float:
        return sum(ends[k][method][0] <= share <= ends[k][method][1] for k in wins) / TRIALS

    assert covered(0) >= 0.92 - ERROR
    assert covered(1) >= 0.95 - ERROR


def test_wilsons_interval_covers_95_percent_on_average_over_shares():
    generator = np.random.default_rng(0)
    shares = generator.uniform(0.02, 0.98, TRIALS)
    wins = generator.binomial(100, shares)
    ends = [wilson(int(k), 100) for k in wins]
    found = sum(low <= p <= high for p, (low, high) in zip(shares, ends, strict=True)) / TRIALS
    assert abs(found - 0.95) <= ERROR


@pytest.mark.parametrize(("p", "q", "n", "m"), [(0.7, 0.7, 100, 50), (0.9, 0.6, 40, 200)])
def test_differences_of_two_shares_are_covered_as_often_as_stated(p, q, n, m):
    generator = np.random.default_rng(n)
    both = zip(generator.binomial(n, p, TRIALS), generator.binomial(m, q, TRIALS), strict=True)
    ends = [newcombe(int(k), n, int(j), m)[1:] for k, j in both]
    found = sum(low <= p - q <= high for low, high in ends) / TRIALS
    assert abs(found - 0.95) <= ERROR + 0.01


def test_paired_differences_of_means_and_ratios_are_covered_as_often_as_stated():
    """60 items; the ratio's numerator and denominator are log-normal and correlated."""
    generator, trials = np.random.default_rng(5), 120
    found = {"difference": 0, "ratio": 0}
    for _ in range(trials):
        base, n = generator.lognormal(0, 0.5, 60), np.ones(60)
        ours = base * generator.lognormal(0, 0.3, 60)
        truth = math.exp(0.125 + 0.045) - math.exp(0.125), math.exp(0.045)
        ends = bootstrap([(1, ours, n), (-1, base, n)]), bootstrap([(1, ours, base)])
        for name, true, (low, high) in zip(found, truth, ends, strict=True):
            found[name] += low <= true <= high
    # percentiles of 60 items are a little narrow: 94%
    least = 0.94 - 3 * math.sqrt(0.94 * 0.06 / trials)
    assert all(count / trials >= least for count in found.values()), found


def test_the_sign_test_of_many_items_takes_no_time_and_rejects_at_most_at_its_level():
    wins = np.random.default_rng(8).binomial(40_000, 0.5, 200).tolist()
    start = time.perf_counter()
    rejected = sum(sign_test(k, 40_000 - k) < 0.05 for k in wins) / len(wins)
    assert time.perf_counter() - start < 10  # 181 s each, as a sum of integers
    assert rejected <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / len(wins))
