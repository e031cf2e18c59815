"""Model folders that cannot be used are refused with one clear sentence.

Nothing in them is executed.
"""

import copy
import shutil

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    LlamaForCausalLM,
    MptConfig,
    OPTConfig,
)

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.data.tokenizer import load_tokenizer, require_same_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import (
    PolicyModel,
    final_scores,
    inference,
    load_policy,
    load_scalar,
    tied_names,
)
from rlhf_core.modeling.trunk import load_trunk


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


def test_models_that_end_a_turn_with_different_tokens_are_refused_with_both(tiny_model, folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.eos_token = "<unk>"
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match=r"reward model .* with '<unk>', the policy .* with '<eos>'"):
        require_same_tokenizer(tiny_model, folder, "reward model")


def test_new_reward_head_depends_on_the_seed_alone(tiny_model):
    head = [
        load_scalar(tiny_model, new_head=True, seed=seed).model.score.weight for seed in (1, 1, 2)
    ]
    assert head[0].equal(head[1]) and not torch.allclose(head[0], head[2])


def test_a_head_is_computed_in_float32_so_that_unequal_sequences_have_unequal_scores(tiny_model):
    """In bfloat16, 8 significant bits, the 400 sequences have 347 distinct scores."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(6, 62, (400, 8), generator=generator).tolist()
    batch = collate([Sequence(row[:4], row[4:]) for row in rows], 0)
    scalar = load_scalar(tiny_model, new_head=True, seed=1)
    trunk = load_trunk(tiny_model, value_head=True)
    trunk.value_head.weight.data.copy_(scalar.model.score.weight)
    by_reward = inference(scalar, dtype="bfloat16")(batch)
    by_trunk = inference(trunk, dtype="bfloat16")(batch)[1]
    for scores_BR1 in (by_reward, by_trunk):
        scores_B = final_scores(scores_BR1, batch.response_mask_BR)
        assert scores_B.dtype == torch.float32 and len(set(scores_B.tolist())) == 400


@pytest.mark.parametrize(
    ("dtype", "weights"), [("float32", "float32"), ("bfloat16", "float32"), ("bfloat16", None)]
)
def test_a_model_whose_weights_are_shared_out_says_the_same_and_keeps_none_whole(
    dtype, weights, monkeypatch
):
    """DeepSpeed's engine asks torch for autocast of CUDA; here it gets the answer for the CPU."""
    enabled = torch.is_autocast_enabled
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind="cpu": enabled(kind))
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
        inference(whole, dtype=dtype, weights=weights)(batch),
        inference(sharded, dtype=dtype, frozen="sharded", weights=weights),
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


SIZES = {"vocab_size": 62, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SIZES, num_key_value_heads=1, head_dim=16, intermediate_size=64),
        BloomConfig(**SIZES),
        GPT2Config(**SIZES),
        OPTConfig(**SIZES, ffn_dim=64, word_embed_proj_dim=32),
        MptConfig(vocab_size=62, d_model=32, n_layers=2, n_heads=2),
        LlamaConfig(**SIZES, intermediate_size=64, tie_word_embeddings=True),
        LlamaConfig(**SIZES, intermediate_size=64),
    ],
    ids=lambda config: f"{config.model_type}-{config.tie_word_embeddings}",
)
def test_tied_names_are_those_that_the_saved_file_lacks(config, tmp_path):
    AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    named = load_policy(tmp_path).model.state_dict().keys()
    assert named - tied_names(tmp_path) == load_file(tmp_path / "model.safetensors").keys()
