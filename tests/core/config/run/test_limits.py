"""Limits of a recipe: which are set, and that no stage knows them."""

import pytest
from pydantic import ValidationError
from recipes import tiny_recipe

from rlhf_core.config import Limits


def test_the_limits_that_are_set_are_given_by_key():
    assert Limits().given == {}
    assert Limits(hours=40, money=12.5).given == {"hours": 40.0, "money": 12.5}
    assert tiny_recipe().limits == Limits()


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf")])
def test_a_limit_is_a_finite_number_above_zero(value):
    with pytest.raises(ValidationError):
        Limits(hours=value)
