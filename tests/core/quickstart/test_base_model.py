"""The tokenizer and the base model of the quickstart."""

import pytest
import torch

from rlhf_core.quickstart import base_model
from rlhf_core.quickstart.corpus import raw_text

PROMPT = "please tell me how to clean a wooden table ."


def test_decoding_gives_back_exactly_the_text_that_was_tokenised(files):
    tokenizer = base_model.make_tokenizer()
    for row in files["comparisons_heldout"]:
        for text in (row["prompt"], row["chosen"], row["rejected"]):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(ids) == len(text.split())
            assert tokenizer.unk_token_id not in ids
            assert (
                tokenizer.decode([*ids, tokenizer.eos_token_id], skip_special_tokens=True) == text
            )


def test_the_chat_template_puts_one_token_before_each_turn_and_ends_a_reply_with_end_of_text():
    tokenizer = base_model.make_tokenizer()
    user, reply = (
        {"role": "user", "content": PROMPT},
        {"role": "assistant", "content": "good luck !"},
    )
    asked = tokenizer.apply_chat_template([user], add_generation_prompt=True, return_dict=False)
    answered = tokenizer.apply_chat_template([user, reply], return_dict=False)
    names = tokenizer.convert_ids_to_tokens(answered)
    assert names == [
        "<bos>",
        "<user>",
        *PROMPT.split(),
        "<assistant>",
        "good",
        "luck",
        "!",
        "<eos>",
    ]
    assert answered[: len(asked)] == asked
    assert (
        len(
            {
                tokenizer.pad_token_id,
                tokenizer.bos_token_id,
                tokenizer.eos_token_id,
                tokenizer.unk_token_id,
            }
        )
        == 4
    )


@pytest.mark.slow
def test_the_base_model_learns_and_learns_the_same_twice():
    tokenizer, runs = base_model.make_tokenizer(), []
    for _ in range(2):
        torch.manual_seed(3)
        losses = []
        model = base_model.make_model(tokenizer)
        base_model.train(
            model,
            tokenizer,
            raw_text(3, 3),
            steps=12,
            log=lambda step, steps, loss, kept=losses: kept.append(loss),
        )
        runs.append((losses, model.state_dict()))
    (losses, first), (_, second) = runs
    assert losses[-1] < losses[0] - 1.5
    assert all(torch.equal(first[name], second[name]) for name in first)
