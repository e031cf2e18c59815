"""The rates that the documentation states, by simulation: infra/docs/concepts/evidence.md.

Seeds are fixed; the bounds are those of a binomial count at four standard errors, because
there are many counts.
"""

import math

import numpy as np
import pytest

from rlhf_core.contest.power import power, prompts_needed, wins_needed
from rlhf_core.contest.spending import level, spent_share

SERIES, WEEKS, PROMPTS, CONFIDENCE = 4000, 52, 256, 0.95
NEEDED = [wins_needed(PROMPTS, level(week, CONFIDENCE)) for week in range(1, WEEKS + 1)]


def error_of(rate: float, n: int) -> float:
    """Return four standard errors of a share of n."""
    return 4 * math.sqrt(rate * (1 - rate) / n)


def promotions(wins: np.ndarray) -> np.ndarray:
    """Return, for wins by series and week, in which of them a candidate was promoted."""
    return wins >= np.array(NEEDED)


def series_with_shared_prompts(seed: int, gain: float) -> np.ndarray:
    """Return wins of weekly candidates against one champion on one set of prompts.

    A score is the prompt's own part, which all share, and a part of the reply; the champion's
    replies are drawn once. So the contests of a series depend on each other, as they do in truth: a
    champion that was lucky with its replies is hard to beat in every week.
    """
    generator = np.random.default_rng(seed)
    wins = np.empty((SERIES, WEEKS), dtype=int)
    for number in range(SERIES):
        prompts = generator.normal(size=PROMPTS).astype(np.float32)
        champion = prompts + generator.normal(size=PROMPTS).astype(np.float32)
        replies = generator.standard_normal(size=(WEEKS, PROMPTS), dtype=np.float32)
        wins[number] = (prompts + replies + gain > champion).sum(-1)
    return wins


def test_52_weekly_contests_of_equal_policies_promote_falsely_at_most_at_the_stated_rate():
    stated = (1 - CONFIDENCE) * spent_share(WEEKS)  # 0.047
    assert stated < 1 - CONFIDENCE
    fresh = np.random.default_rng(1).binomial(PROMPTS, 0.5, size=(SERIES, WEEKS))
    assert promotions(fresh).any(-1).mean() <= stated + error_of(stated, SERIES)
    shared = series_with_shared_prompts(2, gain=0.0)
    assert shared.mean() / PROMPTS == pytest.approx(0.5, abs=0.002)
    assert promotions(shared).any(-1).mean() <= stated + error_of(stated, SERIES)


def test_the_point_estimate_promotes_an_equal_policy_in_nearly_every_series():
    """The rule before this one: more than half of the prompts."""
    fresh = np.random.default_rng(1).binomial(PROMPTS, 0.5, size=(SERIES, WEEKS))
    assert (fresh > PROMPTS / 2).mean() == pytest.approx(0.475, abs=0.005)
    assert (fresh > PROMPTS / 2).any(-1).mean() > 0.999


def test_a_policy_that_truly_wins_48_percent_is_almost_never_promoted():
    worse = np.random.default_rng(3).binomial(PROMPTS, 0.48, size=(SERIES, WEEKS))
    exact = power(PROMPTS, 0.48, level(1, CONFIDENCE))
    assert exact < 0.004
    first = promotions(worse)[:, 0].mean()
    assert first == pytest.approx(exact, abs=error_of(exact, SERIES))
    assert promotions(worse).any(-1).mean() < 0.01
    assert (worse > PROMPTS / 2)[:, 0].mean() == pytest.approx(0.25, abs=0.03)  # the old rule


@pytest.mark.parametrize("look", [1, 12, 52])
@pytest.mark.parametrize("share", [0.55, 0.6, 0.7])
def test_a_policy_that_truly_wins_by_the_planned_effect_is_promoted_at_the_planned_power(
    look, share
):
    at = level(look, CONFIDENCE)
    n = prompts_needed(share, 0.8, at)
    assert n is not None
    won = np.random.default_rng(look).binomial(n, share, size=20_000) >= wins_needed(n, at)
    assert won.mean() == pytest.approx(power(n, share, at), abs=error_of(0.8, 20_000))
    assert 0.8 - error_of(0.8, 20_000) <= won.mean() < 0.84  # the exact power is a saw


def test_of_two_reward_models_both_must_be_won_and_the_rate_holds():
    """Equal by the champion's reward model and far better by its own: the proxy is exploited."""
    generator = np.random.default_rng(4)
    own = generator.binomial(PROMPTS, 0.9, size=(SERIES, WEEKS))
    theirs = generator.binomial(PROMPTS, 0.5, size=(SERIES, WEEKS))
    both = promotions(own) & promotions(theirs)
    stated = (1 - CONFIDENCE) * spent_share(WEEKS)
    assert both.any(-1).mean() <= stated + error_of(stated, SERIES)
    assert promotions(own).all()
