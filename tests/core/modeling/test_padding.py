"""Reward models pad with a token of their own, so that transformers reads the same scores."""

import pytest
import torch
from tokenizers import AddedToken
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from rlhf_core.batching.batch import encode
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import inference, load_scalar, save_model
from rlhf_core.modeling.padding import give_own_pad, holds_no_pad, require_own_pad
from rlhf_core.modeling.smoke import plain_scores, smoke
from rlhf_core.reward.scoring import score_sequences

ROWS = [
    {"prompt": [{"role": "user", "content": "w1 w2"}], "reply": reply}
    for reply in ("w3", "w4 w5 w6 w7", "w8 w9")
]
PADS = {"pad is eos": "<eos>", "no pad": None, "own pad": "<pad>", "pad may occur": "<unk>"}


@pytest.mark.parametrize("pad", PADS.values(), ids=PADS.keys())
def test_an_exported_reward_model_scores_the_same_in_plain_transformers(
    padding_with, tmp_path, pad
):
    base = padding_with(pad)
    tokenizer = load_tokenizer(base)
    give_own_pad(tokenizer, base)
    scalar = load_scalar(base, new_head=True, seed=3, tokens=len(tokenizer))
    save_model(scalar, tokenizer, tmp_path / "reward")
    sequences = encode(tokenizer, ROWS, "reply")
    ours = score_sequences(
        inference(scalar, dtype="float32"), sequences, tokenizer.pad_token_id, 4096
    )
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "reward").eval()
    shipped = AutoTokenizer.from_pretrained(tmp_path / "reward")
    found = plain_scores(model, sequences, shipped.pad_token_id)
    assert found.keys() == {"one by one", "padded together"}
    found["padded on the left"] = padded(model, shipped, sequences, "left")
    for scores in found.values():
        torch.testing.assert_close(scores, ours, atol=1e-5, rtol=1e-5)
    assert ours.std() > 0.05
    smoke("reward", tmp_path / "reward")
    require_own_pad(tmp_path / "reward")
    assert (pad == "<pad>") == (len(shipped) == 62)


def padded(model, tokenizer, sequences, side: str) -> torch.Tensor:
    tokenizer.padding_side = side
    rows = [one.prompt + one.response for one in sequences]
    with torch.inference_mode():
        return model(**tokenizer.pad({"input_ids": rows}, return_tensors="pt")).logits[:, 0]


def test_a_model_that_pads_with_its_end_of_turn_is_refused_with_both_scores(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.pad_token = tokenizer.eos_token
    save_model(load_scalar(tiny_model, new_head=True, seed=3), tokenizer, tmp_path)
    with pytest.raises(BadInput, match=r"scores -?\d.* in this pipeline and -?\d.*, one by one;"):
        smoke("reward", tmp_path)
    with pytest.raises(BadInput, match=r"pads with '<eos>' .*a conversation ends with '<eos>'"):
        require_own_pad(tmp_path)


def test_a_model_that_names_no_padding_is_scored_one_by_one(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    scalar = load_scalar(tiny_model, new_head=True, seed=3)
    save_model(scalar, tokenizer, tmp_path)
    scalar.model.config.pad_token_id = None
    scalar.model.save_pretrained(tmp_path)
    smoke("reward", tmp_path)
    require_own_pad(tmp_path)


def test_a_token_that_the_vocabulary_reserves_for_padding_needs_no_new_one(tiny_model, tmp_path):
    tokenizer = load_tokenizer(tiny_model)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": [AddedToken("w54"), AddedToken("<|image_pad|>")]}
    )
    tokenizer.pad_token = tokenizer.eos_token
    before = len(tokenizer)
    give_own_pad(tokenizer, tmp_path)
    assert tokenizer.pad_token == "<pad>" and len(tokenizer) == before


def test_only_a_token_that_no_text_gives_marks_padding(tiny_model):
    tokenizer = load_tokenizer(tiny_model)
    assert holds_no_pad(tokenizer)
    for pad in ("<eos>", "<unk>"):
        tokenizer.pad_token = pad
        assert not holds_no_pad(tokenizer)


def test_new_embeddings_are_0_and_change_no_score_and_no_random_state(tiny_model):
    state = torch.random.get_rng_state()
    more = load_scalar(tiny_model, new_head=True, seed=3, tokens=64)
    torch.random.set_rng_state(state)
    same = load_scalar(tiny_model, new_head=True, seed=3)
    weight = more.model.get_input_embeddings().weight
    assert weight.shape[0] == 64 and not weight[62:].any()
    assert weight[:62].equal(same.model.get_input_embeddings().weight)
    assert more.model.score.weight.equal(same.model.score.weight)
    assert more.model.config.vocab_size == 64
