"""The default template, and the BOS of tokenizers that begin each text with it."""

import pytest
from chat_families import FAMILIES, ZEPHYR
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from rlhf_core.data.chat_template import (
    DEFAULT_CHAT_TEMPLATE,
    WRITE_BOS,
    ensure_chat_template,
    prompt_text,
)
from rlhf_core.data.render import render_prompt, render_response
from rlhf_core.errors import BadInput


@pytest.fixture
def tokenizer():
    """Return a tokenizer of whole words without BOS."""
    words = ["<eos>", "<unk>", "<|user|>", "<|assistant|>", *(f"w{i}" for i in range(40))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    ensure_chat_template(made)
    return made


def user(text):
    return [{"role": "user", "content": text}]


def test_the_default_template_writes_role_tags_and_opens_the_assistants_turn(tokenizer):
    dialogue = [*user("w1 w2"), {"role": "assistant", "content": "w3"}, *user("w4")]
    ids = render_prompt(tokenizer, dialogue)
    assert type(ids) is list and all(type(i) is int for i in ids)
    words = "<|user|> w1 w2 <|assistant|> w3 <eos> <|user|> w4 <|assistant|>"
    assert ids == [tokenizer.convert_tokens_to_ids(word) for word in words.split()]
    own = tokenizer.apply_chat_template(dialogue, add_generation_prompt=True, return_dict=False)
    assert ids == own


def test_the_default_template_ends_an_answer_right_after_its_text(tokenizer):
    dialogue = [*user("w1"), {"role": "assistant", "content": "w2"}, *user("w3")]
    assert prompt_text(tokenizer, dialogue) == (
        "<|user|>\nw1\n<|assistant|>\nw2<eos>\n<|user|>\nw3\n<|assistant|>\n"
    )


def test_a_response_is_its_tokens_and_end_of_text(tokenizer):
    assert render_response(tokenizer, "w1 w2") == [
        tokenizer.convert_tokens_to_ids(t) for t in ("w1", "w2", "<eos>")
    ]


def test_the_default_template_is_saved_with_the_tokenizer_and_never_replaces_another(
    tokenizer, tmp_path
):
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == DEFAULT_CHAT_TEMPLATE
    tokenizer.chat_template = "mine"
    ensure_chat_template(tokenizer)
    assert tokenizer.chat_template == "mine"


@pytest.mark.parametrize("name", ["no template on llama 2", "zephyr"])
def test_a_template_without_bos_gets_one_where_the_tokenizer_begins_texts_with_it(name, tmp_path):
    """It is saved with the folder, so that every server reads what was trained."""
    tokenizer = FAMILIES[name].tokenizer()
    expected = {"zephyr": ZEPHYR}.get(name, DEFAULT_CHAT_TEMPLATE)
    for _ in "ab":
        ensure_chat_template(tokenizer)
        assert tokenizer.chat_template == WRITE_BOS + expected
    ids = tokenizer.apply_chat_template(user("So?"), add_generation_prompt=True, return_dict=False)
    assert ids == render_prompt(tokenizer, user("So?"))
    assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path).chat_template == WRITE_BOS + expected


@pytest.mark.parametrize("name", ["gemma", "llama 2", "qwen 2.5", "no template"])
def test_a_template_that_fits_its_tokenizer_stays_as_it_is(name):
    tokenizer = FAMILIES[name].tokenizer()
    ensure_chat_template(tokenizer)
    assert tokenizer.chat_template == (FAMILIES[name].template or DEFAULT_CHAT_TEMPLATE)


def test_a_tokenizer_without_end_of_text_is_refused(tokenizer):
    tokenizer.eos_token = None
    with pytest.raises(BadInput, match="no end-of-text token"):
        ensure_chat_template(tokenizer)
