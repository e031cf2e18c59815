"""The shapes of a recipe's models, and refusals of those that are unknown."""

from dataclasses import replace
from pathlib import Path

import pytest
from recipes import llama_recipe
from transformers import AutoModelForCausalLM

from rlhf_core.config import load_recipe
from rlhf_core.errors import ConfigError
from rlhf_core.plan.presets import preset
from rlhf_core.plan.source import find_models


def test_a_folder_and_its_config_give_the_same_shape(tiny_model):
    by_folder = find_models(llama_recipe(model={"base": str(tiny_model)}))
    by_file = find_models(llama_recipe(), config=tiny_model / "config.json")
    model = AutoModelForCausalLM.from_pretrained(tiny_model)
    assert by_folder == by_file
    assert by_folder.policy.policy == sum(p.numel() for p in model.parameters())


def test_the_quickstart_has_the_shape_of_the_model_that_it_makes():
    from rlhf_core.quickstart.base_model import make_model, make_tokenizer

    found = find_models(load_recipe("quickstart"))
    assert found.policy.policy == sum(p.numel() for p in make_model(make_tokenizer()).parameters())


def test_a_gguf_package_has_the_shape_of_its_preset():
    found = find_models(load_recipe("smollm2")).policy
    assert replace(found, name="", source="") == replace(preset("smollm2-135m"), name="", source="")


def test_a_given_reward_model_has_its_own_shape(tiny_model):
    found = find_models(
        llama_recipe(model={"base": "meta-llama/Llama-2-7b", "reward": str(tiny_model)})
    )
    assert found.policy == preset("llama-2-7b")
    assert found.reward.hidden == 64


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{}", "of type None"),
        ('{"model_type": "gpt2"}', "'gpt2'"),
        ("[]", "holds list"),
        ("{", "cannot be read"),
        (
            '{"model_type": "llama", "num_attention_heads": 0, "hidden_size": 4}',
            "not a usable config",
        ),
    ],
)
def test_an_unusable_config_is_refused(tmp_path, content, said):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ConfigError, match=said):
        find_models(llama_recipe(), config=tmp_path / "config.json")


def test_names_are_refused_with_what_there_is():
    with pytest.raises(ConfigError, match="expected one of 13b, 70b, 7b"):
        find_models(llama_recipe(), name="8b")
    with pytest.raises(ConfigError, match="expected one of them"):
        find_models(llama_recipe(), name="7b", config=Path("config.json"))
    with pytest.raises(ConfigError, match="neither a folder nor a preset"):
        find_models(llama_recipe(model={"base": "org/unknown"}))
