"""`rlhf recipes`: the recipes and what they do."""

import json


def test_recipes_are_listed_with_what_they_do(rlhf):
    code, out, _ = rlhf("recipes")
    assert code == 0 and "quickstart" in out and "smollm2" in out
    assert all(row["description"] for row in json.loads(rlhf("recipes", "--json")[1]))
