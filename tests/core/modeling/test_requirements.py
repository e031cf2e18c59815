"""The facts of a model in its config.json alone: context, embeddings, scalar head."""

import inspect
import json
import re
from pathlib import Path

import pytest
import transformers
from transformers import BloomConfig, CodeGenConfig, GPT2Config, LlamaConfig, MptConfig
from transformers.models.auto.configuration_auto import model_type_to_module_name
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
)

from rlhf_core.errors import BadInput
from rlhf_core.modeling.requirements import (
    WITHOUT_SCALAR_HEAD,
    context_length,
    context_of,
    embedding_rows,
    has_sequence_classifier,
    read_config,
)
from rlhf_core.plan.shape import FAMILIES


@pytest.mark.parametrize(
    ("config", "context"),
    [
        (LlamaConfig(max_position_embeddings=48), 48),
        (GPT2Config(n_positions=32), 32),
        (CodeGenConfig(n_positions=40), 40),
        (MptConfig(max_seq_len=56), 56),
        (BloomConfig(), None),  # its positions are biases by distance, without a limit
    ],
)
def test_the_context_is_found_under_each_familys_name(tmp_path, config, context):
    config.save_pretrained(tmp_path)
    assert context_length(config) == context_of(tmp_path) == context


@pytest.mark.parametrize(
    ("values", "context", "rows"),
    [
        ({}, None, None),
        ({"model_type": "of another make"}, None, None),
        ({"model_type": "llama"}, None, None),  # not the default of LlamaConfig
        ({"max_position_embeddings": 512, "vocab_size": 9}, 512, 9),
        (
            {
                "model_type": "gemma3",
                "text_config": {
                    "model_type": "gemma3_text",
                    "max_position_embeddings": 64,
                    "vocab_size": 7,
                },
            },
            64,
            7,
        ),
    ],
)
def test_what_config_json_does_not_say_is_not_made_up(tmp_path, values, context, rows):
    (tmp_path / "config.json").write_text(json.dumps(values))
    assert context_of(tmp_path) == context
    assert embedding_rows(tmp_path) == rows


def test_a_folder_without_a_config_says_nothing_of_embeddings(tmp_path):
    assert embedding_rows(tmp_path) is None


def test_a_broken_config_is_refused_by_name(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(BadInput, match=r"config\.json is not JSON"):
        read_config(tmp_path)


def test_the_families_without_a_scalar_head_are_those_whose_classifier_has_another_one():
    """Transformers' own classifiers build `self.score`, or inherit it from the generic class."""
    folder, found = Path(transformers.__file__).parent / "models", set()
    classifiers = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    for family in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.keys() & classifiers.keys():
        module = model_type_to_module_name(family)
        files = (folder / module).glob("modeling_*.py")
        source = "\n".join(file.read_text(encoding="utf-8") for file in files)
        own = re.search(rf"class {classifiers[family]}\(.*?(?=\nclass |\Z)", source, re.S)
        # gpt-sw3 takes the class of GPT-2
        body = own[0] if own else inspect.getsource(getattr(transformers, classifiers[family]))
        if "self.score =" not in body and "GenericForSequenceClassification" not in body:
            found.add(family)
    assert found | {"llama4", "llama4_text", "mllama"} == WITHOUT_SCALAR_HEAD
    assert WITHOUT_SCALAR_HEAD.isdisjoint(FAMILIES)


def test_the_families_with_a_sequence_classifier_are_those_of_transformers_own_table():
    told = {name: has_sequence_classifier(name) for name in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES}
    table = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES
    assert told == {name: name in table for name in told}
    assert not told["granite"] and not told["cohere"] and not told["codegen"] and told["bloom"]
    assert all(told[family] for family in FAMILIES)
    assert not has_sequence_classifier("of another make")
