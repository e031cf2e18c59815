"""The levels of successive contests on the same held-out prompts."""

import pytest
from scipy.special import zeta

from rlhf_core.contest.spending import (
    EXPONENT,
    is_nearly_spent,
    level,
    level_of_look,
    share_of_budget,
    spent_share,
)


def test_all_contests_together_spend_the_budget_once():
    tail = float(zeta(EXPONENT, 1001)) / float(zeta(EXPONENT))  # of every later look
    assert spent_share(1000) + tail == pytest.approx(1, abs=1e-9)
    assert spent_share(0) == 0 and spent_share(1) == share_of_budget(1)


def test_the_first_contest_has_about_the_level_of_a_two_sided_95_percent_interval():
    assert level(1, 0.95) == pytest.approx(0.0219, abs=1e-4)
    assert level(52, 0.95) == pytest.approx(3.93e-5, rel=1e-2)


def test_the_level_of_one_look_gives_that_of_another():
    assert level_of_look(7, level(2, 0.9), 2) == pytest.approx(level(7, 0.9))


def test_from_the_ninth_contest_the_prompts_are_nearly_spent():
    assert next(look for look in range(1, 20) if is_nearly_spent(look)) == 9
