"""A folder that holds no whole language model is refused before anything is trained."""

import json
import shutil

import pytest
from safetensors.torch import load_file, save_file
from transformers import (
    BertConfig,
    BloomConfig,
    BloomForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    MixtralConfig,
    MixtralForCausalLM,
    T5Config,
)

from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import load_policy, load_scalar
from rlhf_core.modeling.trainable import require_language_model, require_weights, structure_of

Q_PROJ = "model.layers.0.self_attn.q_proj.weight"


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_language_model_is_not_refused(tiny_model):
    require_language_model(tiny_model)
    require_weights(tiny_model)


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (GPT2LMHeadModel, GPT2Config(vocab_size=9, n_embd=8, n_layer=1, n_head=1)),
        (BloomForCausalLM, BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=1)),
        (
            Gemma2ForCausalLM,
            Gemma2Config(
                vocab_size=9,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                head_dim=8,
            ),
        ),
        (
            MixtralForCausalLM,
            MixtralConfig(
                vocab_size=9,
                hidden_size=8,
                intermediate_size=8,
                num_hidden_layers=1,
                num_attention_heads=1,
                num_key_value_heads=1,
                num_local_experts=2,
            ),
        ),
    ],
)
def test_tied_weights_and_experts_are_not_missed(make, shape, tmp_path):
    """save_pretrained leaves a tied weight out, and writes each expert under a name of its own."""
    model = make(shape)
    model.save_pretrained(tmp_path)
    require_language_model(tmp_path)
    found = structure_of(tmp_path)
    assert sum(p.numel() for p in found.parameters()) == sum(p.numel() for p in model.parameters())
    assert {p.device.type for p in found.parameters()} == {"meta"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, r"names no model_type, which transformers \S+ does not have; expected a family"),
        ({"model_type": "newer"}, r"of the family 'newer', which transformers \S+ does not have; "),
        (
            {"model_type": "newer", "auto_map": {"AutoModelForCausalLM": "modeling_newer.Newer"}},
            r"does not have, and names Python code of the model's own \(auto_map\), which is never"
            r" run \(trust_remote_code=False\); expected a family of transformers",
        ),
        (
            LlamaConfig(hidden_size=64).to_dict() | {"hidden_size": "wide"},
            r"config\.json is not a usable configuration of the family 'llama'",
        ),
        (T5Config().to_dict(), "family 't5', for which transformers has no causal language model"),
        (
            BertConfig().to_dict(),
            "is an encoder of the family 'bert', in which a token reads those",
        ),
        (
            LlamaConfig().to_dict() | {"quantization_config": {"quant_method": "gptq", "bits": 4}},
            r"holds quantized weights \(gptq\), which cannot be trained; expected float32",
        ),
    ],
)
def test_what_is_no_language_model_to_train_is_refused_by_its_config_alone(
    tmp_path, values, message
):
    (tmp_path / "config.json").write_text(json.dumps(values))
    with pytest.raises(BadInput, match=message):
        require_language_model(tmp_path)


def test_code_of_its_own_beside_a_known_family_is_not_needed(folder):
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForCausalLM": "modeling_llama.LlamaForCausalLM"}
    (folder / "config.json").write_text(json.dumps(config))
    require_language_model(folder)
    require_weights(folder)


@pytest.mark.parametrize("check", [require_weights, load_policy])
def test_a_missing_weight_is_refused_and_not_drawn_at_random(folder, check):
    change_weights(folder, lambda weights: weights.pop(Q_PROJ))
    with pytest.raises(BadInput, match=rf"lacks 1 of the model's weights \({Q_PROJ}\)"):
        check(folder)


def test_many_missing_weights_are_named_in_part(folder):
    change_weights(
        folder, lambda weights: [weights.pop(name) for name in [*weights] if ".1.mlp" in name]
    )
    change_weights(folder, lambda weights: weights.pop(Q_PROJ))
    with pytest.raises(BadInput, match=rf"lacks 4 .*\({Q_PROJ}, .*, .* and 1 more\)"):
        require_weights(folder)


def test_a_weight_of_another_shape_is_refused_with_both(folder):
    change_weights(folder, lambda weights: weights.update({Q_PROJ: weights[Q_PROJ][:32].clone()}))
    with pytest.raises(BadInput, match=rf"holds {Q_PROJ} in the shape \[32, 64\], .* \[64, 64\]"):
        require_weights(folder)
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_policy(folder)


def test_a_reward_model_needs_a_head_only_where_none_is_made(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(
        json.dumps(config | {"id2label": {"0": "a"}, "label2id": {"a": 0}})
    )
    assert load_scalar(folder, new_head=True)
    with pytest.raises(BadInput, match=r"lacks 1 of the model's weights \(score\.weight\)"):
        load_scalar(folder)
