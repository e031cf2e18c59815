"""A scalar head for causal models whose family has no sequence classifier."""

import json
import subprocess
import sys
import textwrap

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BertConfig,
    CodeGenConfig,
    Cohere2Config,
    CohereConfig,
    CTRLConfig,
    GraniteConfig,
    LlamaForSequenceClassification,
    T5Config,
    XGLMConfig,
)

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.classifier import classifier_class, with_scalar_head
from rlhf_core.modeling.models import final_scores, load_scalar, save_model
from rlhf_core.modeling.smoke import plain_scores

SIZES = {"vocab_size": 62, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": None}
SEQUENCES = [Sequence([7, 8], [9, 1]), Sequence([10], [11, 12, 13, 14, 1])]
FAMILIES = {
    "granite": GraniteConfig(**SIZES, **IDS, intermediate_size=64),
    "cohere": CohereConfig(**SIZES, **IDS, intermediate_size=64),
    "cohere2": Cohere2Config(**SIZES, **IDS, intermediate_size=64),
    "codegen": CodeGenConfig(  # its heads come in fours
        **SIZES | {"num_attention_heads": 4}, **IDS, rotary_dim=8, n_positions=64
    ),
    "xglm": XGLMConfig(**SIZES, **IDS, ffn_dim=64),
}


@pytest.fixture(params=FAMILIES.values(), ids=FAMILIES.keys())
def base(request, tmp_path):
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(request.param).save_pretrained(tmp_path / "base")
    return tmp_path / "base"


def test_it_is_saved_loaded_and_scores_the_same_in_the_forward_pass_of_transformers(
    base, tiny_model, tmp_path
):
    made = load_scalar(base, new_head=True, seed=3)
    batch = collate(SEQUENCES, 0)
    expected = final_scores(made(batch), batch.response_mask_BR)
    assert (expected[0] - expected[1]).abs() > 1e-3
    save_model(made, load_tokenizer(tiny_model), tmp_path / "reward")
    again = load_scalar(tmp_path / "reward")
    torch.testing.assert_close(final_scores(again(batch), batch.response_mask_BR), expected)
    for scores in plain_scores(again.model.eval(), SEQUENCES, 0).values():
        torch.testing.assert_close(scores, expected, atol=1e-5, rtol=1e-5)


def test_its_backbone_is_the_language_models(base):
    language = AutoModelForCausalLM.from_pretrained(base).base_model.state_dict()
    scalar = load_scalar(base, new_head=True).model.base_model.state_dict()
    assert language.keys() == scalar.keys()
    assert all(scalar[name].equal(tensor) for name, tensor in language.items())


def test_the_documented_lines_load_it_in_plain_transformers(tiny_model, tmp_path):
    """In a process without this project."""
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(FAMILIES["granite"]).save_pretrained(tmp_path / "base")
    made = load_scalar(tmp_path / "base", new_head=True, seed=3)
    save_model(made, load_tokenizer(tiny_model), tmp_path / "reward")
    code = f"""
        import json, torch
        from transformers import GraniteConfig, GranitePreTrainedModel
        from transformers.modeling_layers import GenericForSequenceClassification

        class GraniteForSequenceClassification(
            GenericForSequenceClassification, GranitePreTrainedModel
        ):
            config_class = GraniteConfig
            base_model_prefix = GranitePreTrainedModel.base_model_prefix

        model = GraniteForSequenceClassification.from_pretrained({str(tmp_path / "reward")!r})
        ids = torch.tensor([{SEQUENCES[1].prompt + SEQUENCES[1].response}])
        print("FOUND", json.dumps(model.eval()(ids).logits.tolist()))
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, cwd=tmp_path
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("FOUND")]
    assert lines, done.stderr[-2000:]
    batch = collate(SEQUENCES, 0)
    expected = float(final_scores(made(batch), batch.response_mask_BR)[1])
    assert json.loads(lines[0][6:])[0][0] == pytest.approx(expected, abs=1e-5)


def test_a_family_with_a_classifier_keeps_its_own(tiny_model):
    assert type(load_scalar(tiny_model, new_head=True).model) is LlamaForSequenceClassification
    assert classifier_class(LlamaForSequenceClassification.config_class()) is (
        AutoModelForSequenceClassification
    )


@pytest.mark.parametrize(
    "config",
    [
        CTRLConfig(vocab_size=62, n_embd=32, dff=64, n_layer=2, n_head=2),
        BertConfig(**SIZES, intermediate_size=64, is_decoder=True),
    ],
    ids=["ctrl", "bert"],
)
def test_a_model_that_can_have_none_is_refused(config, tmp_path):
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match=r"is of the family '\w+', .* no sequence classifier with"):
        load_scalar(tmp_path, new_head=True)


def test_a_given_classifier_with_another_head_is_refused(tmp_path):
    config = BertConfig(**SIZES, intermediate_size=64, num_labels=1)
    AutoModelForSequenceClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(BadInput, match="BertForSequenceClassification is no single linear map"):
        load_scalar(tmp_path)


def test_a_family_that_is_no_causal_language_model_is_refused():
    with pytest.raises(BadInput, match="T5Config belongs to no causal language model"):
        with_scalar_head(T5Config)
