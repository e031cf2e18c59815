"""The inputs of the evaluation: champion, further reward models, scorers."""

import pytest
from recipes import prepared_recipe

from tasks.stages import evaluate


def test_the_champion_is_compared_with_unless_it_is_the_policy_itself(have):
    assert "champion" in evaluate.spec(prepared_recipe(), have | {"champion": have["sft"]}).inputs
    assert (
        "champion"
        not in evaluate.spec(prepared_recipe(), have | {"champion": have["policy"]}).inputs
    )


def test_the_champions_reward_model_scores_too_where_it_is_another_one(have):
    rival = {"champion": have["sft"], "champion_reward": have["base"]}
    found = evaluate.spec(prepared_recipe(), have | rival).inputs
    assert found["champion_reward"].digest == have["base"].digest
    same = rival | {"champion_reward": have["reward"]}
    assert "champion_reward" not in evaluate.spec(prepared_recipe(), have | same).inputs
    itself = rival | {"champion": have["policy"]}
    assert "champion_reward" not in evaluate.spec(prepared_recipe(), have | itself).inputs


def test_a_further_reward_model_is_in_the_evaluation_by_its_bytes_not_its_place(have, tmp_path):
    spec = evaluate.spec(
        prepared_recipe(
            evaluate={"reward_models": [str(tmp_path / "sft"), str(tmp_path / "base")]}
        ),
        have,
    )
    assert (spec.inputs["reward_2"].digest, spec.inputs["reward_3"].digest) == (
        have["sft"].digest,
        have["base"].digest,
    )
    (tmp_path / "sft").rename(tmp_path / "moved")
    moved = evaluate.spec(
        prepared_recipe(
            evaluate={"reward_models": [str(tmp_path / "moved"), str(tmp_path / "base")]}
        ),
        have,
    )
    assert moved.digest == spec.digest != evaluate.spec(prepared_recipe(), have).digest


@pytest.mark.parametrize("field", ["independent_scorer", "judge"])
def test_an_edited_scorer_is_asked_again(have, tmp_path, monkeypatch, field):
    monkeypatch.chdir(tmp_path)
    name = f"opinions_{tmp_path.name}"
    value = f"{name}:score"
    section = {field: {"function": value} if field == "judge" else value}
    (tmp_path / f"{name}.py").write_text("def score(*texts): return [0.0]\n")
    before = evaluate.spec(prepared_recipe(evaluate=section), have)
    assert before.inputs[field].path == tmp_path / f"{name}.py"
    (tmp_path / f"{name}.py").write_text("def score(*texts): return [1.0]\n")
    assert evaluate.spec(prepared_recipe(evaluate=section), have).digest != before.digest


def test_an_evaluation_of_sharded_models_runs_on_all_ranks(have):
    two = {"ranks": 2}
    whole = evaluate.spec(prepared_recipe(distributed=two), have)
    sharded = prepared_recipe(distributed=two, evaluate={"frozen": "sharded"})
    assert whole.ranks == 1 and "ranks" not in whole.config.model_dump(mode="json")
    assert evaluate.spec(sharded, have).ranks == 2


JUDGE = {"endpoint": "http://127.0.0.1:1/v1", "model": "m"}


def test_a_judge_gets_the_labelled_pairs_where_there_are_any(have):
    with_judge = prepared_recipe(evaluate={"judge": JUDGE})
    found = evaluate.spec(with_judge, have).inputs
    assert found["comparisons_heldout"] == have["comparisons_heldout"]
    none = prepared_recipe(evaluate={"judge": JUDGE | {"agreement_pairs": 0}})
    for recipe, artifacts in (
        (none, have),
        (prepared_recipe(), have),
        (with_judge, {k: v for k, v in have.items() if k != "comparisons_heldout"}),
    ):
        assert "comparisons_heldout" not in evaluate.spec(recipe, artifacts).inputs


def test_the_number_of_traces_is_no_part_of_the_stages_identity(have):
    specs = [
        evaluate.spec(prepared_recipe(evaluate={"judge": JUDGE | {"traces": n}}), have)
        for n in (0, 100)
    ]
    assert specs[0].digest == specs[1].digest
