"""Round 0 has no new comparisons, and none of the keys about them."""

from flows.iterate.plan import ANNOTATORS, IterationOptions, make_plan
from flows.iterate.round_0 import settings_of_round_0
from rlhf_core.config import load_recipe

GATE = 'stage = "reward", metric = "reward/accuracy_new", bound = "more than", threshold = 0.5'
DRIFT = 'stage = "reward", metric = "reward/score_distance_new", bound = "at most", threshold = 1'
KEYS = f"""
reward.new_weight = 2.0
reward.before = "a reward model"
reward.gate = {{min_new_accuracy = 0.6, min_new_pairs = 10, min_accuracy = 0.65}}
gates.mine = {{{GATE}}}
gates.drift = {{{DRIFT}}}
gates.old = {{stage = "reward", metric = "reward/accuracy", bound = "more than", threshold = 0.5}}
"""


def test_keys_of_new_comparisons_in_a_recipes_file_are_for_the_further_rounds(recipe_file):
    """Bug: they stopped the loop at once, with the advice to give data.new_comparisons."""
    recipe_file.write_text(recipe_file.read_text() + KEYS)
    given = [f"gates.other={{{GATE}}}", "gates.other.min_n=5", "reward.new_weight=3", "seed=4"]
    plan = make_plan(
        str(recipe_file), given, IterationOptions(2, 60, ("onpolicy",), "random", ANNOTATORS)
    )
    first = plan.loaded
    assert first == load_recipe(str(recipe_file), plan.settings_of(0))
    assert (first.reward.new_weight, first.reward.gate.min_new_accuracy) == (1.0, None)
    assert first.reward.before is None
    assert (first.reward.gate.min_accuracy, first.seed, list(first.gates)) == (0.65, 4, ["old"])
    assert plan.settings_of(1) == given


def test_a_recipe_with_new_comparisons_of_its_own_keeps_its_keys(recipe_file):
    recipe_file.write_text(recipe_file.read_text() + KEYS)
    own = ['data.new_comparisons=["own.jsonl"]', "reward.new_weight=4"]
    assert settings_of_round_0(str(recipe_file), own) == own
    assert settings_of_round_0("quickstart", ["reward.new_weight=4", "seed=2"]) == ["seed=2"]
