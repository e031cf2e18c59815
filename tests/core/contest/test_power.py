"""Exact power of a contest, against a plain count of binomial outcomes."""

from math import comb

import pytest

from rlhf_core.contest.power import detectable_share, p_value, power, prompts_needed, wins_needed


def tail(wins: int, n: int, share: float) -> float:
    return sum(comb(n, k) * share**k * (1 - share) ** (n - k) for k in range(wins, n + 1))


@pytest.mark.parametrize(("n", "threshold"), [(5, 0.5), (60, 0.5), (60, 0.55), (256, 0.5)])
def test_the_fewest_wins_are_those_whose_probability_under_no_effect_is_below_the_level(
    n, threshold
):
    for level in (0.2, 0.02, 1e-4):
        wins = wins_needed(n, level, threshold)
        if wins is None:
            assert tail(n, n, threshold) >= level
            continue
        assert tail(wins, n, threshold) < level <= tail(wins - 1, n, threshold)
        assert power(n, 0.7, level, threshold) == pytest.approx(tail(wins, n, 0.7))
        assert p_value(wins, n, threshold) == pytest.approx(tail(wins, n, threshold))


def test_prompts_needed_have_the_power_that_was_wanted():
    n = prompts_needed(0.6, 0.8, 0.0219)
    assert n is not None and power(n - 1, 0.6, 0.0219) < 0.8
    assert all(power(m, 0.6, 0.0219) >= 0.8 for m in range(n, n + 100))
    assert 202 < n < 230  # 202 by the normal approximation without a correction
    assert prompts_needed(0.5, 0.8, 0.0219) is None  # no number of prompts shows what is not there
    assert prompts_needed(0.5001, 0.8, 0.0219) is None


def test_the_detectable_share_is_the_smallest_with_that_power():
    share = detectable_share(256, 0.8, 0.0219)
    assert share is not None and power(256, share, 0.0219) >= 0.8
    assert power(256, share - 2e-4, 0.0219) < 0.8
    assert detectable_share(3, 0.8, 0.0219) is None
