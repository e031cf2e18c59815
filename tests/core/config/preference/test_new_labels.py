"""Keys of later labels, and of the reward model that training goes on from."""

import json

import pytest
from recipes import tiny_recipe

from rlhf_core.config.stage_configs import RewardStageConfig, ValidateStageConfig

NEW = {"demonstrations": "d", "comparisons": "c", "new_comparisons": "n.jsonl"}


def test_one_file_is_a_list_of_one_and_files_are_numbered():
    data = tiny_recipe(data=NEW).data
    assert [source.path for source in data.new_comparisons] == ["n.jsonl"]
    assert list(data.sources) == ["demonstrations", "comparisons", "new_comparisons_1"]
    assert data.key_of("new_comparisons_1") == "data.new_comparisons"
    two = tiny_recipe(data=NEW | {"new_comparisons": ["a", {"path": "b", "limit": 3}]}).data
    assert two.sources["new_comparisons_2"].limit == 3
    assert two.key_of("new_comparisons_2") == "data.new_comparisons (file 2)"
    assert two.with_sources({}) == two and two.kinds[-1] == "new_comparisons"


def test_a_recipe_without_the_keys_has_the_specs_that_it_had():
    recipe = tiny_recipe()
    shown = ValidateStageConfig(data=recipe.data).model_dump_json()
    shown += RewardStageConfig(reward=recipe.reward, train=True, dtype="float32").model_dump_json()
    shown += json.dumps(recipe.dpo.model_dump(mode="json"))
    for key in ("new_comparisons", "new_weight", "start", "before"):
        assert f'"{key}"' not in shown


@pytest.mark.parametrize(
    "sections,message",
    [
        (
            {"data": {"demonstrations": "d", "feedback": "f", "new_comparisons": "n"}},
            "new_comparisons is given without comparisons",
        ),
        ({"reward": {"new_weight": 2}}, "reward.new_weight is 2, but data.new_comparisons is not"),
        ({"reward": {"new_weight": 0}}, "greater than 0"),
        ({"reward": {"new_weight": float("inf")}}, "finite number"),
        (
            {"reward": {"start": "r"}, "model": {"base": "b", "reward": "g"}},
            "reward.start is 'r', but model.reward is 'g' and nothing is trained",
        ),
        (
            {"reward": {"start": "r", "lora": True}, "ppo": {"reward_trunk": "reference"}},
            "reward.start is 'r', but ppo.reward_trunk is 'reference'",
        ),
        (
            {"reward": {"before": "r"}},
            "reward.before is 'r', but .* data.new_comparisons is not given",
        ),
        (
            {"reward": {"before": "champion", "feedback": {"learn_from": "feedback"}}}
            | {"data": NEW | {"feedback": "f"}},
            "reward.before is 'champion', but .* reward.feedback.learn_from is 'feedback'",
        ),
        ({"reward": {"before": ""}, "data": NEW}, "at least 1 character"),
        (
            {"reward": {"gate": {"min_new_accuracy": 0.6}}},
            "reward/heldout_pairs_new, which is not measured: give data.new_comparisons",
        ),
    ],
)
def test_what_no_stage_could_use_is_refused(sections, message):
    with pytest.raises(ValueError, match=message):
        tiny_recipe(**sections)


def test_the_gate_of_new_labels_is_there_where_a_recipe_asks_for_it():
    plain, gated = (
        tiny_recipe(data=NEW, reward={"gate": gate}).reward.gate.bounds()
        for gate in ({}, {"min_new_accuracy": 0.65, "min_new_pairs": 30})
    )
    assert gated.items() - plain.items() == {
        ("new_pairs", ("reward/heldout_pairs_new", "at least", 30)),
        ("new_accuracy", ("reward/accuracy_new", "at least", 0.65)),
        ("new_lower_bound", ("reward/accuracy_new_lower", "at least", 0.5)),
    }


DRIFT = {
    "stage": "reward",
    "metric": "reward/score_distance_new",
    "bound": "at most",
    "threshold": 1.0,
}


def test_drift_is_measured_where_there_is_a_model_before():
    for reward in ({"before": "r"}, {"start": "r"}, {"start": "champion"}):
        tiny_recipe(data=NEW, reward=reward, gates={"drift": DRIFT})
    of_before = {"metric": "reward/accuracy_new_before"}
    for gate in (DRIFT, DRIFT | of_before):
        with pytest.raises(ValueError, match=r"measured: set reward\.before or reward\.start"):
            tiny_recipe(data=NEW, gates={"drift": gate})
    with pytest.raises(ValueError, match=r"not measured: give data\.new_comparisons"):
        tiny_recipe(gates={"drift": DRIFT}, reward={"start": "r"})
    with pytest.raises(ValueError, match="needs min_n 2001 items of reward/score_distance_new"):
        tiny_recipe(data=NEW, reward={"start": "r"}, gates={"drift": DRIFT | {"min_n": 2001}})
