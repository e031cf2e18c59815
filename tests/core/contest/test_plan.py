"""The plan of contests: the one asked for and later ones, by exact power."""

import pytest

from rlhf_core.config import Contest
from rlhf_core.contest.plan import ContestWish, plan_contests
from rlhf_core.contest.power import power
from rlhf_core.contest.spending import level


def test_the_plan_begins_with_the_contest_asked_for_and_gets_harder():
    found = plan_contests(Contest(), ContestWish(0.1, 0.8, 256, look=3))
    assert [one.look for one in found] == [3, 5, 9, 12, 26, 52]
    needed = [one.prompts_needed for one in found]
    assert needed == sorted(needed)
    first = found[0]
    assert first.level == level(3, 0.95) and first.power == power(256, 0.6, first.level)
    assert first.detectable_effect is not None
    assert power(256, 0.5 + first.detectable_effect, first.level) >= 0.8


def test_the_table_of_the_documentation():
    found = plan_contests(Contest(), ContestWish(0.1, 0.8, 256))
    rows = [(one.look, one.wins_needed, one.prompts_needed, round(one.power, 2)) for one in found]
    assert rows == [
        (1, 145, 215, 0.88),
        (2, 149, 285, 0.74),
        (5, 152, 370, 0.61),
        (9, 155, 424, 0.46),
        (12, 156, 448, 0.41),
        (26, 158, 519, 0.31),
        (52, 160, 585, 0.23),
    ]


def test_a_smallest_effect_and_a_smallest_number_count():
    (*_, hard) = plan_contests(Contest(min_effect=0.05), ContestWish(0.1, 0.8, 256, look=52))
    (*_, easy) = plan_contests(Contest(), ContestWish(0.1, 0.8, 256, look=52))
    assert hard.prompts_needed is not None and easy.prompts_needed is not None
    assert hard.prompts_needed > easy.prompts_needed
    (first, *_) = plan_contests(Contest(min_n=100), ContestWish(0.4, 0.8, 256))
    assert first.prompts_needed == 100


@pytest.mark.parametrize("prompts", [1, 5])
def test_prompts_that_can_show_nothing_say_so(prompts):
    (first, *_) = plan_contests(Contest(), ContestWish(0.1, 0.8, prompts))
    assert first.wins_needed is None and first.power == 0 and first.detectable_effect is None
