"""`rlhf inspect`: what it says of a model and of a recipe's rows, and its exit codes."""

import json
import shutil

import pytest

from rlhf_core.data.tokenizer import load_tokenizer


def test_a_usable_model_ends_with_0_and_another_with_2_and_its_reasons(rlhf, tiny_model, tmp_path):
    code, out, _ = rlhf("inspect", "--model", str(tiny_model))
    assert code == 0 and "The pipeline can use this model." in out
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(folder)
    code, out, _ = rlhf("inspect", "--model", str(folder))
    assert code == 2 and "The pipeline cannot use this model: 1 reason above, refused." in out
    code, out, _ = rlhf("inspect", "--model", str(folder), "--json")
    found = json.loads(out)
    assert code == 2 and not found["usable"]
    assert "has 63 tokens, the model has embeddings for 62" in found["reasons"][0]


def test_a_recipe_adds_its_lengths(rlhf, tiny_model, recipe_file):
    words = ("inspect", str(recipe_file), "--model", str(tiny_model), "--json")
    code, out, _ = rlhf(*words)
    assert code == 0 and json.loads(out)["recipe"] == "tiny"
    code, out, _ = rlhf(*words, "--set", "data.max_prompt_tokens=1000")
    assert code == 2 and "the context of" in json.loads(out)["reasons"][0]


def test_a_folder_that_is_not_there_is_one_sentence(rlhf):
    code, out, error = rlhf("inspect", "--model", "nowhere")
    assert (code, out) == (2, "") and "--model is 'nowhere': no such folder" in error


def test_without_recipe_and_model_it_says_what_it_needs(rlhf):
    code, out, error = rlhf("inspect")
    assert (code, out) == (2, "") and "expected RECIPE, --model FOLDER, or both" in error


def test_a_recipe_shows_real_rows_of_each_stage_and_trains_nothing(rlhf, real_recipe, home):
    code, out, error = rlhf("inspect", real_recipe, "--rows", "1", "--json")
    assert code == 0, error
    found = json.loads(out)
    assert [stage["stage"] for stage in found["stages"]] == ["sft", "reward", "ppo", "evaluate"]
    rows = {stage["stage"]: stage["rows"] for stage in found["stages"]}
    (row,) = rows["sft"]
    assert (
        row["texts"][-3:] == [row["texts"][-3], "w1", "<eos>"] and row["trained"][-3:] == [True] * 3
    )
    chosen, rejected = rows["reward"]
    assert chosen["texts"][-3:-1] == ["w1", "w2"] and rejected["texts"][-4:-1] == ["w3", "w4", "w5"]
    assert sorted(path.name.partition("-")[0] for path in (home / "runs").iterdir()) == ["validate"]
    page = (home / "reports" / "tiny-inspect.html").read_text()
    assert found["page"].endswith("tiny-inspect.html") and "&lt;eos&gt;" in page
    code, out, _ = rlhf("inspect", real_recipe, "--html", home / "own.html")
    assert code == 0 and (home / "own.html").exists()
    assert "<eos>[1] <- the reply ends" in out and "trained" in out


@pytest.mark.slow
def test_a_template_that_asks_for_todays_date_shows_the_date_that_the_stages_read(
    rlhf, real_recipe, tiny_model, tmp_path, home
):
    folder = shutil.copytree(tiny_model, tmp_path / "dated")
    tokenizer = load_tokenizer(folder)
    tokenizer.chat_template = "{{ strftime_now('w%-d') }} " + tokenizer.chat_template
    tokenizer.save_pretrained(folder)
    words = ("inspect", real_recipe, "--rows", "1", "--json", "--set", f"model.base={folder}")
    code, out, error = rlhf(*words, "--set", "model.template_date=2020-01-02")
    assert code == 0, error
    found = json.loads(out)
    shown = [row["texts"][0] for stage in found["stages"] for row in stage["rows"]]
    assert set(shown) == {"w2"}
    (spec,) = (home / "runs").glob("validate-*/spec.json")
    assert json.loads(spec.read_text())["config"]["template_date"] == "2020-01-02"
