"""The models of a run, and gold items."""

import json

import pytest
from synthetic import Story

from rlhf_core.errors import BadInput
from tasks.labels.sources import WantedPairs, _require_models, _spec, gold_items, models_of


def test_the_stage_reads_the_runs_models_and_its_training_splits_only(synthetic):
    record = synthetic.write(Story("made"))
    models = models_of(record)
    assert models.facts["name"] == "made" and set(models.facts["digests"]) == {"policy", "reward"}
    spec = _spec(models, WantedPairs(["onpolicy", "mistakes"], 10, "random", 3))
    assert set(spec.inputs) == {"policy", "reward", "prompts_train", "comparisons_train"}
    assert (spec.seed, spec.config.prompts, spec.config.comparisons) == (3, 40, 200)
    assert spec.config.evaluate.judge is None


def test_prompts_held_out_with_later_labels_may_be_labelled_again(synthetic):
    """Bug: live replies to them were left out, so that fewer later labels measured."""
    record = synthetic.write(Story("made"))
    folder = record.stage("validate").run_dir
    result = json.loads((folder / "result.json").read_text())
    names = ("prompts_heldout", "comparisons_heldout", "new_comparisons_heldout")
    for name in names:
        result["outputs"][name] = {"path": f"{name}.jsonl", "digest": name}
    (folder / "result.json").write_text(json.dumps(result))
    assert {artifact.digest for artifact in models_of(record).heldout} == set(names[:2])


def test_a_run_on_feedback_alone_has_no_training_pairs(synthetic):
    models = models_of(synthetic.write(Story("feedback")))
    del models.inputs["comparisons_train"]
    spec = _spec(models, WantedPairs(["contested"], 10, "random", 3))
    assert (spec.config.prompts, spec.config.comparisons) == (40, 0)
    _require_models(models, ["onpolicy", "contested"])
    with pytest.raises(BadInput, match="mistakes asks for training comparisons, and feedback has"):
        _require_models(models, ["mistakes"])


def test_a_run_without_a_policy_is_refused(synthetic):
    with pytest.raises(BadInput, match="early has no finished policy"):
        models_of(synthetic.write(Story("early", until="reward")))


def test_gold_items_have_the_right_answer_on_either_side(tmp_path):
    file = tmp_path / "gold.jsonl"
    rows = [{"prompt": f"q{n}", "chosen": f"good {n}", "rejected": f"bad {n}"} for n in range(20)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    pairs = gold_items(file)
    assert {pair.gold for pair in pairs} == {"a", "b"}
    for pair in pairs:
        right = pair.reply_a if pair.gold == "a" else pair.reply_b
        assert right.startswith("good")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "holds no items"),
        ("{}", "line 1 is"),
        ('{"prompt": "p", "chosen": "x", "rejected": "\\ud83d"}', "line 1 is"),
        ('{"prompt": "p", "chosen": "x", "rejected": "x"}', "two different texts"),
    ],
)
def test_bad_gold_items_are_named(tmp_path, text, says):
    file = tmp_path / "gold.jsonl"
    file.write_text(text)
    with pytest.raises(BadInput, match=says):
        gold_items(file)
    with pytest.raises(BadInput, match="is no file"):
        gold_items(tmp_path / "absent")
