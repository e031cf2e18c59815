"""Gates that need more held-out rows than there are are refused before anything trains."""

import pytest
from recipes import tiny_recipe

from rlhf_core.errors import BadInput
from tasks.stages.samples import require_samples

MINE = {"stage": "evaluate", "metric": "eval/win_rate", "bound": "more than", "threshold": 0.5}
ENOUGH = {"data/comparisons_heldout": 100.0, "data/prompts_heldout": 120.0}


def always(stage: str) -> bool:
    return True


def test_a_gate_that_needs_more_rows_than_are_held_out_is_refused():
    """Bug: it refused after every stage had trained."""
    recipe = tiny_recipe(gates={"mine": MINE | {"min_n": 120}})
    require_samples(recipe, ENOUGH, always)
    with pytest.raises(BadInput, match=r"gates.mine needs 120 items, and prompts_heldout has 119"):
        require_samples(recipe, ENOUGH | {"data/prompts_heldout": 119.0}, always)
    with pytest.raises(BadInput, match=r"reward.gate \(pairs\) needs 100 items.*Add held-out data"):
        require_samples(recipe, ENOUGH | {"data/comparisons_heldout": 99.0}, always)


def test_a_gate_of_a_stage_that_is_not_wanted_is_not_asked():
    few = {"data/comparisons_heldout": 20.0, "data/demonstrations_heldout": 20.0}
    require_samples(tiny_recipe(), few, lambda stage: stage == "sft")


def test_an_override_lowers_what_is_needed():
    allowed = {"pairs": {"threshold": 30, "reason": "few labels", "by": "ann"}}
    recipe = tiny_recipe(reward={"gate": {"overrides": allowed}})
    require_samples(recipe, ENOUGH | {"data/comparisons_heldout": 30.0}, always)
    with pytest.raises(BadInput, match="needs 30 items"):
        require_samples(recipe, ENOUGH | {"data/comparisons_heldout": 29.0}, always)


def test_rows_that_the_data_do_not_state_refuse_nothing():
    require_samples(tiny_recipe(), {}, always)
