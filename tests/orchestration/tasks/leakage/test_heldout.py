"""Held-out prompts that a model which takes part was trained on are left out and counted."""

import pytest
from made_models import MadeModels, rows
from recipes import tiny_recipe

from rlhf_core.data.splits import load_split, prompt_keys, save_split
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import EVALUATE, REWARD, SFT
from tasks.leakage.heldout import forbidden_prompts, without_leaks
from tasks.records.run_record import Record
from tasks.run_context import RunContext
from tasks.stages.contract import spec_of

HELDOUT = [f"held out {i}" for i in range(150)]


@pytest.fixture
def made(home):
    return MadeModels(home)


@pytest.fixture
def context(made):
    recipe = tiny_recipe()
    record = Record.new(made.workspace, recipe)
    record.save(made.workspace)
    return RunContext(recipe, made.workspace, record.id)


@pytest.fixture
def have(made, tmp_path):
    """Return an evaluation's inputs: models trained on this run's splits, and held-out rows."""
    data, sft, reward = made.pipeline("ours", "ours 1", "ours 2")
    policy = made.stage("ppo", "ours", {"policy": sft, "reward": reward}, {"model": "ours"})
    found = {**data, "sft": sft, "reward": reward, "policy": policy["model"]}
    for name in ("prompts", "demonstrations", "comparisons"):
        file = tmp_path / f"{name}_heldout.jsonl"
        save_split(file, rows(*HELDOUT))
        found[f"{name}_heldout"] = Artifact.of(file)
    return found


def champion(made, *prompts):
    _, sft, reward = made.pipeline("theirs", *prompts)
    inputs = {"policy": sft, "reward": reward}
    return made.stage("ppo", "theirs", inputs, {"model": "theirs"})["model"]


def given(tmp_path):
    (tmp_path / "given").mkdir()
    (tmp_path / "given" / "weights").write_text("from elsewhere")
    return Artifact.of(tmp_path / "given")


def test_models_that_were_trained_on_this_runs_splits_need_no_search(context, have):
    assert without_leaks(context, EVALUATE, have) is None
    assert without_leaks(context, REWARD, have) is None
    assert without_leaks(context, SFT, have | {"base": have["sft"]}) is None


def test_prompts_that_the_champion_was_trained_on_are_left_out_and_counted(
    context, made, have, caplog
):
    have["champion"] = champion(made, *HELDOUT[:30], "another one")
    found = without_leaks(context, EVALUATE, have)
    assert set(found.splits) == {"prompts_heldout"}  # comparisons may have demonstrations' prompts
    kept = load_split(found.splits["prompts_heldout"].path)
    assert prompt_keys(kept) == prompt_keys(rows(*HELDOUT[30:]))
    assert found.splits["prompts_heldout"].digest != have["prompts_heldout"].digest
    assert found.check.left_out == {"prompts_heldout": 30}
    assert found.check.leaked == {"champion": 30} and not found.check.unknown
    sentence = (
        "30 of 150 prompts of prompts_heldout are left out: training prompts of champion (30)"
    )
    assert found.check.sentence == sentence and sentence in caplog.text
    again = without_leaks(context, EVALUATE, have)
    assert again.splits == found.splits


def test_a_champion_whose_other_data_hold_no_held_out_prompt_is_clean(context, made, have, caplog):
    have["champion"] = champion(made, "another one")
    found = without_leaks(context, EVALUATE, have)
    assert found.splits == {} and found.check.is_clean and not caplog.text
    assert found.check.sentence == (
        "no held-out prompt is a training prompt of champion, policy, reward, sft"
    )


def test_too_few_prompts_left_are_refused_with_one_sentence(context, made, have):
    have["champion"] = champion(made, *HELDOUT[:140])
    with pytest.raises(BadInput) as refused:
        without_leaks(context, EVALUATE, have)
    least = context.recipe.evaluate.gate.min_prompts
    assert (
        "evaluate: 140 of 150 prompts of prompts_heldout are left out: training prompts of champion"
        f" (140); 10 are left, expected at least {max(least, 20)}."
    ) in str(refused.value)


def test_a_model_of_unknown_data_is_said_to_be_unknown_and_so_is_what_was_made_from_it(
    context, made, have, tmp_path, caplog
):
    have["sft"] = given(tmp_path)
    inputs = {"model": have["sft"], "comparisons_train": have["comparisons_train"]}
    have["reward"] = made.stage("reward", "new", inputs, {"model": "new"})["model"]
    found = without_leaks(context, EVALUATE, have)
    assert set(found.check.unknown) == {"sft", "reward"} and found.splits == {}
    assert not found.check.is_clean and found.check.known == ["policy"]
    assert "the training data of sft are unknown (no run here or in MLflow made" in caplog.text


def test_a_given_reward_model_is_searched_before_it_is_measured(made, have, tmp_path):
    _, _, reward = made.pipeline("theirs", *HELDOUT[:10])
    recipe = tiny_recipe(model={"base": "b", "reward": str(reward.path)})
    record = Record.new(made.workspace, recipe)
    record.save(made.workspace)
    context = RunContext(recipe, made.workspace, record.id)
    found = without_leaks(context, REWARD, have | {"base": have["sft"]})
    assert found.check.left_out == {"comparisons_heldout": 10}
    assert found.check.leaked == {"given": 10}


def champion_of_unknown_sft(made, *prompts):
    """Return a champion whose PPO run is here, and whose SFT model no run here made."""
    data = made.stage("validate", "known", {}, {"prompts_train": rows(*prompts)})
    elsewhere = Artifact(path=made.workspace.home, digest="e" * 64)
    inputs = {"policy": elsewhere, "prompts_train": data["prompts_train"]}
    return made.stage("ppo", "known", inputs, {"model": "known"})["model"], data["prompts_train"]


def test_leaks_found_here_are_left_out_though_mlflow_fails_for_a_parent(
    context, made, have, caplog
):
    """Bug: everything that was found was thrown away, and all 150 prompts were measured."""
    have["champion"], _ = champion_of_unknown_sft(made, *HELDOUT[:60])
    (made.workspace.home / "mlflow.db").write_text("no database")
    found = without_leaks(context, EVALUATE, have)
    assert found.check.left_out["prompts_heldout"] == 60
    assert len(load_split(found.splits["prompts_heldout"].path)) == 90
    assert set(found.check.unknown) == {"champion"}
    known_in_part = "the training data of champion are known in part only (no run here made eeeeeee"
    assert known_in_part in caplog.text and "MLflow does not answer: " in caplog.text
    assert "), so the rest was not searched" in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_text('{"prompt"'),
        lambda file: file.write_text(file.read_text().splitlines()[0] + "\n"),
        lambda file: file.write_bytes(b"\xff\xfe"),
    ],
    ids=["cut in a line", "cut after a line", "not text"],
)
def test_a_damaged_split_is_named_and_is_no_failure_of_mlflow(context, made, have, damage):
    """Bug: "MLflow does not answer"; a file cut after a line counted as whole."""
    have["champion"], split = champion_of_unknown_sft(made, *HELDOUT[:60])
    damage(split.path)
    found = without_leaks(context, EVALUATE, have)
    why = found.check.unknown["champion"]
    assert f"its prompts_train {split.digest[:12]} cannot be read" in why
    assert str(split.path) in why and "MLflow does not answer" not in why
    assert "no run here or in MLflow made eeeeeeeeeeee" in why
    assert context.tracker.problem is None


@pytest.mark.parametrize("file", ["spec.json", "result.json"])
def test_a_damaged_record_is_named_where_the_maker_of_a_model_is_not_found(
    context, made, have, file
):
    """Bug: a traceback at the first record that was cut."""
    _, sft, reward = made.pipeline("theirs", *HELDOUT[:30])
    (made.workspace.runs / "sft-theirs" / file).write_text('{"stage": "s')
    have["champion"] = made.stage(
        "ppo", "theirs", {"policy": sft, "reward": reward}, {"model": "t"}
    )["model"]
    check = without_leaks(context, EVALUATE, have).check
    assert f"no run here or in MLflow made {sft.digest[:12]}" in check.unknown["champion"]
    assert "sft-theirs cannot be read" in check.unknown["champion"]
    assert check.left_out == {"prompts_heldout": 30} and set(check.unknown) == {"champion"}


def start_of(made, have, tmp_path, *prompts, **gate):
    """Return a context whose reward model goes on from one trained on these comparisons."""
    _, _, start = made.pipeline("theirs", *prompts)
    data = {"demonstrations": "d", "comparisons": "c", "new_comparisons": "n"}
    recipe = tiny_recipe(data=data, reward={"start": str(start.path), "gate": gate})
    record = Record.new(made.workspace, recipe)
    record.save(made.workspace)
    save_split(tmp_path / "new.jsonl", rows(*HELDOUT[100:110]))
    have["new_comparisons_heldout"] = Artifact.of(tmp_path / "new.jsonl")
    return RunContext(recipe, made.workspace, record.id)


def test_new_pairs_on_prompts_that_the_start_was_trained_on_are_left_out(made, have, tmp_path):
    """Bug: accuracy_new was measured on them, because they leave training in this run alone."""
    context = start_of(made, have, tmp_path, *HELDOUT[100:104], "theirs demonstration")
    found = without_leaks(context, REWARD, have)
    assert found.check.left_out == {"comparisons_heldout": 4, "new_comparisons_heldout": 4}
    kept = load_split(found.splits["new_comparisons_heldout"].path)
    assert prompt_keys(kept) == prompt_keys(rows(*HELDOUT[104:110]))


def test_without_any_left_new_pairs_are_not_measured_and_their_gate_is_refused(
    made, have, tmp_path
):
    prompts = HELDOUT[100:110]
    found = without_leaks(start_of(made, have, tmp_path, *prompts), REWARD, have)
    assert not len(load_split(found.splits["new_comparisons_heldout"].path))
    (tmp_path / "gated").mkdir()
    other = MadeModels(tmp_path / "gated")
    gated = start_of(other, have, tmp_path, *prompts, min_new_accuracy=0.6)
    with pytest.raises(BadInput, match="10 of 10 prompts of new_comparisons_heldout are left out"):
        without_leaks(gated, REWARD, have)


def test_the_model_before_is_measured_without_its_prompts_and_others_with_them(
    made, have, tmp_path, caplog
):
    _, _, before = made.pipeline("theirs", *HELDOUT[100:104], "theirs demonstration")
    save_split(tmp_path / "new.jsonl", rows(*HELDOUT[100:110]))
    have["new_comparisons_heldout"] = Artifact.of(tmp_path / "new.jsonl")
    data = {"demonstrations": "d", "comparisons": "c", "new_comparisons": "n"}
    gate = {"min_new_accuracy": 0.6}
    recipe = tiny_recipe(data=data, reward={"before": str(before.path), "gate": gate})
    record = Record.new(made.workspace, recipe)
    record.save(made.workspace)
    found = without_leaks(RunContext(recipe, made.workspace, record.id), REWARD, have)
    unseen = "new_comparisons_heldout_unseen"
    assert found.splits.keys() == {unseen, "comparisons_heldout_unseen"}
    assert prompt_keys(load_split(found.splits[unseen].path)) == prompt_keys(
        rows(*HELDOUT[104:110])
    )
    assert found.check.left_out == {unseen: 4, "comparisons_heldout_unseen": 4}
    sentence = (
        "4 of 10 prompts of new_comparisons_heldout are left out where the reward model before is"
        " measured: training prompts of before (4)"
    )
    assert sentence in found.check.sentence and sentence in caplog.text
    inputs = spec_of(REWARD, recipe, have | found.splits).inputs
    assert inputs[unseen] == found.splits[unseen] and inputs["before"].digest == before.digest
    assert inputs["new_comparisons_heldout"] == have["new_comparisons_heldout"]


def test_demonstrations_and_rollouts_may_have_prompts_of_held_out_new_pairs():
    trained = {
        "start": {
            "demonstrations_train": {"d"},
            "prompts_train": {"p"},
            "comparisons_train": {"c"},
            "feedback_train": {"f"},
            "new_comparisons_train": {"n"},
        }
    }
    assert forbidden_prompts(trained, "new_comparisons_heldout") == {"start": {"c", "f", "n"}}
    others = forbidden_prompts(trained, "comparisons_heldout")
    assert others == {"start": {"d", "c", "f", "n", "p"}}
