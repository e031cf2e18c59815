"""A tokenizer with more tokens than the model has embeddings is refused before anything trains."""

import shutil

import pytest

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.vocabulary import require_embeddings

ROWS = 62  # embeddings of the tiny model, and tokens of its tokenizer


@pytest.fixture
def folder(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


def test_as_many_embeddings_as_tokens_are_enough(folder):
    require_embeddings(load_tokenizer(folder), folder)


@pytest.mark.parametrize(
    ("add", "token"),
    [
        (lambda t: t.add_special_tokens({"pad_token": "<|pad|>"}), r"<\|pad\|>"),
        (lambda t: t.add_special_tokens({"eos_token": "<|end|>"}), r"<\|end\|>"),
        (lambda t: t.add_tokens(["newword"]), "newword"),
    ],
)
def test_a_token_that_text_or_padding_gives_needs_an_embedding(folder, add, token):
    tokenizer = load_tokenizer(folder)
    add(tokenizer)
    message = (
        rf"has 63 tokens, the model has embeddings for {ROWS}: '{token}' is token 62, expected at"
        r" most 61\. Call model\.resize_token_embeddings"
    )
    with pytest.raises(BadInput, match=message):
        require_embeddings(tokenizer, folder)


def test_a_token_of_the_template_needs_an_embedding(folder):
    tokenizer = load_tokenizer(folder)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<turn>", "<image>"]})
    require_embeddings(tokenizer, folder)  # special tokens that no text gives
    tokenizer.chat_template = "<turn> " + tokenizer.chat_template
    with pytest.raises(BadInput, match=r"has 64 tokens.*'<turn>' is token 62"):
        require_embeddings(tokenizer, folder)
