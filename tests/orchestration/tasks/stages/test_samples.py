"""Gates that need more held-out rows than there are are refused before anything trains."""

import json
from pathlib import Path

import pytest
from recipes import tiny_recipe

from rlhf_core.errors import BadInput
from tasks.stages.samples import require_samples, require_subsets

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


def gate_on(subset: str, **rule) -> dict:
    metric = f"reward/subset/{subset}/accuracy"
    given = {"stage": "reward", "metric": metric, "bound": "at least", "threshold": 0.6}
    return {"gates": {"hard": given | {"of": "lower"} | rule}}


@pytest.fixture
def comparisons(tmp_path) -> Path:
    """Thirty held-out pairs of `chat-hard`, ten of `safety`, five of no subset."""
    names = ["chat-hard"] * 30 + ["safety"] * 10 + [None] * 5
    lines = [json.dumps({"id": str(i), "meta": {"subset": name}}) for i, name in enumerate(names)]
    (tmp_path / "heldout.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path / "heldout.jsonl"


def test_a_gate_on_a_subset_that_the_pairs_do_not_have_is_refused(comparisons):
    require_subsets(tiny_recipe(**gate_on("chat-hard", min_n=30)), comparisons, always)
    says = r"gates.hard needs 1 pairs of the subset 'chat-easy'.*have 0;.*chat-hard \(30\), safety"
    with pytest.raises(BadInput, match=says):
        require_subsets(tiny_recipe(**gate_on("chat-easy")), comparisons, always)
    with pytest.raises(BadInput, match="needs 31 pairs"):
        require_subsets(tiny_recipe(**gate_on("chat-hard", min_n=31)), comparisons, always)


def test_only_the_pairs_that_are_measured_count(comparisons):
    few = {"reward": {"max_heldout": 10, "gate": {"min_pairs": 10}}}
    with pytest.raises(BadInput, match="the 10 held-out comparisons that are measured have"):
        require_subsets(tiny_recipe(**gate_on("safety", min_n=9), **few), comparisons, always)


def test_without_such_a_gate_the_pairs_are_not_read():
    require_subsets(tiny_recipe(), Path("nowhere"), always)
    require_subsets(tiny_recipe(**gate_on("safety")), Path("nowhere"), lambda stage: False)
