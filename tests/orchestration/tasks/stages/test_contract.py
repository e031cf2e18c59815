"""Paths of a recipe are checked before anything runs."""

import pytest
from recipes import MODEL_FILES, prepared_recipe

from rlhf_core.errors import BadInput
from tasks.stages.contract import check_paths
from tasks.stages.spec import model_folder


@pytest.mark.parametrize("missing", MODEL_FILES)
@pytest.mark.parametrize("field", ["base", "sft", "reward"])
def test_a_model_folder_without_weights_or_tokenizer_is_refused_before_anything_runs(
    have, tmp_path, field, missing
):
    (tmp_path / "sft" / missing).unlink()
    (tmp_path / "sft" / "pytorch_model.bin").write_bytes(b"pickled")
    with pytest.raises(
        BadInput, match=rf"model.{field} is .* holds no (\*|config|tokenizer).*save_pretrained"
    ):
        check_paths(prepared_recipe(model={"base": "quickstart", field: str(tmp_path / "sft")}))


def test_a_missing_data_file_is_refused_before_anything_runs():
    data = {"demonstrations": "{prepared}/data.jsonl", "comparisons": "nowhere.jsonl"}
    with pytest.raises(BadInput, match=r"data\.comparisons is 'nowhere.jsonl'"):
        check_paths(prepared_recipe(data=data))


@pytest.mark.parametrize(
    ("section", "key"),
    [
        ({"reward_models": ["nowhere"]}, "evaluate.reward_models is 'nowhere'"),
        (
            {"independent_scorer": "no_such_module:score"},
            "evaluate.independent_scorer is 'no_such_module:score'",
        ),
        (
            {"judge": {"function": "no.such.module:judge"}},
            "evaluate.judge.function is 'no.such.module:judge'",
        ),
        (
            {"judge": {"endpoint": "http://x/v1", "model": "m", "api_key_env": "NO_SUCH_KEY"}},
            "NO_SUCH_KEY, which is not set",
        ),
    ],
)
def test_an_opinion_that_is_not_there_is_refused_before_anything_runs(section, key):
    with pytest.raises(BadInput, match=key):
        check_paths(prepared_recipe(evaluate=section))


def test_models_elsewhere_are_refused_before_anything_runs(make_recipe, confined, tiny_model):
    with pytest.raises(BadInput, match=r"model\.base leads to .* outside"):
        check_paths(make_recipe())
    with pytest.raises(BadInput, match="outside"):
        model_folder("model.sft", "/etc")
