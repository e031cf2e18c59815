"""The findings on a model folder: what a run needs of it, in the words with which it refuses."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.inspection.model import inspect_model
from rlhf_core.modeling.models import load_scalar, save_model
from rlhf_core.modeling.vocabulary import require_embeddings


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def by_name(folder) -> dict:
    return {one.name: one for one in inspect_model(folder)}


def with_tokenizer(folder, tiny_model):
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(folder)
    return folder


def test_nothing_of_a_usable_model_is_refused(tiny_model):
    found = by_name(tiny_model)
    assert {one.level for one in found.values()} == {"ok"}
    assert found["architecture"].found == "LlamaForCausalLM, family llama"
    assert found["weights"].values == {"parameters": 90176, "dtypes": ["float32"]}
    assert found["context"].values == {"tokens": 1024}
    assert found["embeddings"].values == {"rows": 62}
    assert found["end of turn"].values == {"id": 1, "stops": [1]}
    assert found["padding"].values == {"id": 0}


def test_a_token_without_an_embedding_is_refused_as_the_run_refuses_it(folder):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput) as refusal:
        require_embeddings(load_tokenizer(folder), folder)
    found = by_name(folder)["embeddings"]
    assert found.level == "refused" and found.found == str(refusal.value)


def test_missing_weights_are_refused_and_the_tokenizer_is_still_looked_at(folder):
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    found = by_name(folder)
    assert found["weights"].level == "refused" and "model.norm.weight" in found["weights"].found
    assert found["chat template"].level == found["embeddings"].level == "ok"


def test_of_a_family_that_is_not_known_nothing_more_is_said_of_the_model(folder):
    (folder / "config.json").write_text(json.dumps({"model_type": "newer", "vocab_size": 62}))
    found = by_name(folder)
    assert found["architecture"].level == "refused"
    assert {"weights", "vLLM", "context", "tied weights"}.isdisjoint(found)


def test_a_folder_without_a_tokenizer_is_refused(folder):
    for file in folder.glob("tokenizer*"):
        file.unlink()
    found = by_name(folder)
    assert found["tokenizer"].level == "refused" and found["weights"].level == "ok"
    assert "embeddings" not in found


def test_a_context_under_another_name_tied_weights_and_half_precision_are_told(
    tiny_model, tmp_path
):
    shape = GPT2Config(vocab_size=62, n_positions=40, n_embd=8, n_layer=1, n_head=1)
    GPT2LMHeadModel(shape).to(torch.bfloat16).save_pretrained(tmp_path)
    found = by_name(with_tokenizer(tmp_path, tiny_model))
    assert found["context"].values == {"tokens": 40}
    assert found["tied weights"].values == {"names": ["lm_head.weight"]}
    assert found["weights"].values["dtypes"] == ["bfloat16"]


def test_what_only_some_recipes_need_is_a_note(tiny_model, tmp_path):
    shape = GPTNeoConfig(
        vocab_size=62, hidden_size=8, num_layers=1, num_heads=1, attention_types=[[["global"], 1]]
    )
    GPTNeoForCausalLM(shape).save_pretrained(tmp_path / "neo")
    neo = by_name(with_tokenizer(tmp_path / "neo", tiny_model))["vLLM"]
    assert neo.level == "note" and neo.values == {"service": "none"}
    assert "does not serve GPTNeoForCausalLM; set ppo.sampling.engine" in neo.found
    shape = GraniteConfig(
        vocab_size=62,
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
    )
    GraniteForCausalLM(shape).save_pretrained(tmp_path / "granite")
    found = by_name(with_tokenizer(tmp_path / "granite", tiny_model))
    assert found["reward model"].found.endswith("gets a scalar head on its backbone")
    assert found["reward model"].level == "ok" and found["vLLM"].level == "ok"
    scalar = load_scalar(tmp_path / "granite", new_head=True)
    save_model(scalar, load_tokenizer(tiny_model), tmp_path / "reward")
    assert by_name(tmp_path / "reward")["weights"].level == "ok"


def test_a_reward_model_is_looked_at_as_one(tiny_model, tmp_path):
    save_model(load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), tmp_path)
    found = by_name(tmp_path)
    assert {one.level for one in found.values()} == {"ok"}
    assert found["architecture"].found.endswith("family llama, for model.reward")
    assert "vLLM" not in found and "tied weights" not in found
    weights = load_file(tmp_path / "model.safetensors")
    weights.pop("score.weight")
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    assert "score.weight" in by_name(tmp_path)["weights"].found
