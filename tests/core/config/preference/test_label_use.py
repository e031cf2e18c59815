"""Later labels, their weights and their gate, where the recipe would use none of them."""

import pytest
from recipes import tiny_recipe

NEW = {"demonstrations": "d", "comparisons": "c", "new_comparisons": "n.jsonl"}
BOTH = NEW | {"feedback": "f"}
SCORED = {"independent_scorer": "m:f"}
TRAINED = SCORED | {"train_reward": True}
DPO, KTO = ({"align": align, "evaluate": SCORED} for align in ("dpo", "kto"))
BY_FEEDBACK = {"feedback": {"learn_from": "feedback"}}


@pytest.mark.parametrize(
    "sections,message",
    [
        (
            {"reward": {"gate": {"min_new_pairs": 30}}, "data": NEW},
            "reward.gate.min_new_pairs is 30, but reward.gate.min_new_accuracy is not set",
        ),
        (
            DPO | {"reward": {"gate": {"min_new_accuracy": 0.6}}, "data": NEW},
            "min_new_accuracy is 0.6, but .* align = 'dpo' does not run the stage reward",
        ),
        (
            {
                "reward": {"gate": {"min_new_accuracy": 0.6}},
                "data": {"demonstrations": "d", "feedback": "f"},
            },
            "min_new_accuracy is 0.6, but .* data.comparisons is not given",
        ),
        (
            DPO
            | {"evaluate": TRAINED, "data": BOTH}
            | {"reward": BY_FEEDBACK | {"gate": {"min_new_accuracy": 0.99}}},
            "min_new_accuracy is 0.99, but .* reward.feedback.learn_from is 'feedback'",
        ),
        (
            {"reward": BY_FEEDBACK, "data": BOTH},
            "new_comparisons is given, but no stage reads comparisons: reward.feedback.learn_from",
        ),
        (
            KTO | {"kto": {"learn_from": "feedback"}, "data": BOTH},
            "but no stage reads comparisons: kto.learn_from is 'feedback'",
        ),
        (
            {"dpo": {"new_weight": 2}, "data": NEW},
            "dpo.new_weight is 2, but the stage dpo trains on no new row: align = 'ppo' does not",
        ),
        (
            DPO | {"reward": {"new_weight": 2}, "data": NEW},
            "reward.new_weight is 2, but .* align = 'dpo' does not run the stage reward",
        ),
        (
            {"reward": {"new_weight": 2}, "data": NEW, "model": {"base": "b", "reward": "g"}},
            "reward.new_weight is 2, but .* model.reward is 'g', a given model",
        ),
    ],
)
def test_new_labels_their_weight_and_their_gate_are_refused_where_nothing_uses_them(
    sections, message
):
    """Bug: these recipes loaded, and the labels trained nothing or the gate was left out."""
    with pytest.raises(ValueError, match=message):
        tiny_recipe(**sections)


def test_new_labels_may_measure_a_given_reward_model_and_train_what_reads_them():
    given = {"base": "b", "reward": "g"}
    tiny_recipe(data=NEW, model=given, reward={"gate": {"min_new_accuracy": 0.6}})
    tiny_recipe(data=NEW, dpo={"new_weight": 2}, **DPO)
    tiny_recipe(data=NEW, **KTO)
    kto = {"learn_from": "feedback"}
    tiny_recipe(data=BOTH, **KTO | {"evaluate": TRAINED, "kto": kto})  # the reward model learns


def test_a_metric_of_new_labels_is_not_measured_by_a_model_of_feedback():
    gate = {"stage": "reward", "metric": "reward/accuracy_new", "bound": "at least"}
    sections = DPO | {"evaluate": TRAINED, "data": BOTH, "reward": BY_FEEDBACK}
    with pytest.raises(ValueError, match="the reward model is measured on no comparisons"):
        tiny_recipe(**sections, gates={"new": gate | {"threshold": 0.6}})
