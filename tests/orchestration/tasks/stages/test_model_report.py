"""A model against the files that a run needs, and against the recipe that is to use it."""

import shutil

import pytest
from recipes import tiny_recipe
from safetensors.torch import load_file, save_file

from rlhf_core.errors import BadInput
from tasks.stages.capacity import require_context
from tasks.stages.model_report import model_report

LENGTHS = {"demonstrations": "d", "comparisons": "c", "max_prompt_tokens": 900}


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def names(report) -> set[str]:
    return {one.name for one in report.findings if one.level == "refused"}


def test_a_model_is_usable_with_and_without_a_recipe(folder):
    assert model_report(folder).usable
    report = model_report(folder, tiny_recipe())
    assert report.usable and report.recipe == "tiny" and report.reasons == []


def test_a_recipes_lengths_are_refused_as_the_run_refuses_them(folder):
    recipe = tiny_recipe(data=LENGTHS)
    with pytest.raises(BadInput) as refusal:
        require_context(recipe, folder)
    report = model_report(folder, recipe)
    assert report.reasons == [str(refusal.value)] and names(report) == {"recipe's lengths"}


def test_pickles_and_missing_files_are_refused_and_what_is_there_is_looked_at(folder):
    (folder / "pytorch_model.bin").touch()
    report = model_report(folder)
    assert names(report) == {"files"} and "holds pickles (pytorch_model.bin)" in report.reasons[0]
    (folder / "model.safetensors").unlink()
    assert names(model_report(folder)) == {"files", "weights"}
    (folder / "config.json").unlink()
    assert [one.name for one in model_report(folder).findings] == ["files"]


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BadInput, match=r"--model is '.*gone': no such folder"):
        model_report(tmp_path / "gone")


def test_a_model_that_the_recipe_gives_beside_it_is_looked_at(folder, tiny_model, tmp_path):
    given = shutil.copytree(tiny_model, tmp_path / "given")
    weights = load_file(given / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, given / "model.safetensors", metadata={"format": "pt"})
    report = model_report(folder, tiny_recipe(model={"base": "b", "sft": str(given)}))
    assert names(report) == {"recipe's given models"}
    assert "given lacks 1 of the model's weights" in report.reasons[0]
