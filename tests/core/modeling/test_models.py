"""Model folders that cannot be used are refused with one clear sentence.

Nothing in them is executed.
"""

import copy
import shutil

import pytest
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import (
    PolicyModel,
    inference,
    load_policy,
    load_scalar,
    load_tokenizer,
    require_same_tokenizer,
)


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_weights_in_a_pickle_are_refused_unopened(folder):
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(b"not even a pickle")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin.*can run code"):
        load_policy(folder)


def test_truncated_weights_are_refused(folder):
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(BadInput, match="cannot be loaded"):
        load_policy(folder)


def test_language_model_is_no_reward_model(tiny_model):
    with pytest.raises(BadInput, match="a reward model has one"):
        load_scalar(tiny_model)


def test_tokenizer_without_end_of_text_is_refused(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match="no EOS token"):
        load_tokenizer(folder)


def test_models_with_different_token_ids_are_not_compared(tiny_model, folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["another"])
    tokenizer.save_pretrained(folder)
    require_same_tokenizer(tiny_model, tiny_model, "champion")
    with pytest.raises(BadInput, match=r"champion.*another tokenizer"):
        require_same_tokenizer(tiny_model, folder, "champion")


def test_new_reward_head_depends_on_the_seed_alone(tiny_model):
    head = [
        load_scalar(tiny_model, new_head=True, seed=seed).model.score.weight for seed in (1, 1, 2)
    ]
    assert head[0].equal(head[1]) and not torch.allclose(head[0], head[2])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_whose_weights_are_shared_out_says_the_same_and_keeps_none_whole(
    dtype, monkeypatch
):
    # DeepSpeed puts its own in its place, and leaves it
    monkeypatch.setattr(nn.functional, "linear", nn.functional.linear)
    sizes = {
        "hidden_size": 256,
        "intermediate_size": 512,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "vocab_size": 500,
    }
    torch.manual_seed(0)
    whole = PolicyModel(LlamaForCausalLM(LlamaConfig(**sizes)))
    sharded = copy.deepcopy(whole)
    batch = collate([Sequence([5] * 3, [6] * 9), Sequence([5] * 7, [6] * 4)], 0)
    expected, forward = (
        inference(whole, dtype=dtype)(batch),
        inference(sharded, dtype=dtype, frozen="sharded"),
    )
    for _ in range(2):
        assert forward(batch).equal(expected)
        # DeepSpeed keeps smaller ones
        large = [weight for weight in sharded.parameters() if weight.ds_numel > 100_000]
        assert len(large) == 2 * 3 + 2 and not any(weight.numel() for weight in large)


def test_tokenizer_without_padding_token_pads_with_end_of_text_and_loses_nothing(
    tiny_model, tmp_path
):
    end = 1
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.pad_token = None
    tokenizer.save_pretrained(tmp_path)
    again = load_tokenizer(tmp_path)
    assert again.pad_token_id == again.eos_token_id == end
    assert collate([Sequence([5], [end]), Sequence([5], [6, end])], again.pad_token_id).sizes == [
        (1, 1),
        (1, 2),
    ]
