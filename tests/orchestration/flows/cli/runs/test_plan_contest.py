"""`rlhf plan-contest`: its table, its JSON, and an effect that cannot be shown."""

import json

import pytest


def words(text: str) -> str:
    return " ".join(text.split())


def test_it_says_whether_the_recipes_prompts_are_enough(rlhf):
    code, out, _ = rlhf("plan-contest", "quickstart")
    assert code == 0 and "Contests of quickstart on 256 decided held-out prompts" in words(out)
    assert "Enough: contest 1 needs 215 decided prompts to show 60.0% with power 80%." in words(out)
    code, out, _ = rlhf("plan-contest", "quickstart", "--contest", "9")
    assert code == 0 and "Too few: contest 9 needs 424" in words(out)


def test_json_has_every_number(rlhf):
    code, out, _ = rlhf(
        "plan-contest", "quickstart", "--effect", "0.05", "--prompts", "800", "--json"
    )
    found = json.loads(out)
    assert (code, found["recipe"], found["effect"], found["prompts"]) == (
        0,
        "quickstart",
        0.05,
        800,
    )
    assert found["contests"][0]["look"] == 1 and found["contests"][0]["prompts_needed"] > 800


@pytest.mark.parametrize("effect", ["0.05", "0.1"])
def test_an_effect_below_the_recipes_smallest_is_bad_input(rlhf, effect):
    setting = "registry.contest.min_effect=0.1"
    code, _, err = rlhf("plan-contest", "quickstart", "--effect", effect, "--set", setting)
    assert code == 2 and f"--effect {effect} is not above" in words(err)
