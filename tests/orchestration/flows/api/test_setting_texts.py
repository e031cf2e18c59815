"""Settings as Python values become the texts of `--set`."""

from pathlib import Path

import numpy
import pytest

from flows.api.setting_texts import setting_texts
from rlhf_core.config import load_recipe
from rlhf_core.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1, "0.1"),
        (1e-6, "1e-06"),
        (3, "3"),
        (True, "true"),
        ("a, 'b' \"c\"\n", '"a, \'b\' \\"c\\"\\n"'),
        (Path("data/c.jsonl"), '"data/c.jsonl"'),
        (["m:f", "m:g"], '["m:f", "m:g"]'),
        ({"min_rows": 5, "a b": [1]}, '{min_rows = 5, "a b" = [1]}'),
        (None, "none"),
        (numpy.float64(0.25), "0.25"),
        (numpy.int64(4), "4"),
    ],
)
def test_a_value_is_written_in_toml(value, text):
    assert setting_texts({"k": value}) == [f"k={text}"]


def test_a_recipe_reads_the_values_that_were_given():
    settings = {"ppo.beta": 0.5, "ppo.reward.functions": ["m:f"], "description": "a 'b' \\ ü"}
    recipe = load_recipe("quickstart", setting_texts(settings))
    assert (recipe.ppo.beta, recipe.description) == (0.5, "a 'b' \\ ü")
    assert len(recipe.ppo.reward.functions) == 1


def test_texts_stay_as_they_are():
    assert setting_texts(["ppo.beta=0.1"]) == ["ppo.beta=0.1"]
    assert setting_texts(None) == []


@pytest.mark.parametrize(
    ("values", "says"),
    [("ppo.beta=0.1", "expected a dictionary"), ({"ppo.beta": object()}, "ppo.beta is <object")],
)
def test_what_no_recipe_can_have_is_one_error(values, says):
    with pytest.raises(ConfigError, match=says):
        setting_texts(values)
