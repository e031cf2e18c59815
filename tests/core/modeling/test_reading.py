"""A model reads replies in its own rendering, whatever token ids another model writes."""

import shutil
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import PPO
from rlhf_core.data.render import render_prompt, render_response
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.errors import BadInput
from rlhf_core.modeling.reading import own_reading, reads_the_same, reward_reading

EOS = 1
PROMPT = [{"role": "user", "content": "w1 w2"}]
OTHER_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] + ' : ' + m['content'] + ' <eos> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'assistant : ' }}{% endif %}"
)


def changed(folder: Path, target: Path, **changes: str) -> Path:
    """Copy a model's folder, with other fields of its tokenizer."""
    shutil.copytree(folder, target)
    tokenizer = load_tokenizer(folder)
    for name, value in changes.items():
        setattr(tokenizer, name, value)
    tokenizer.save_pretrained(target)
    return target


@pytest.fixture(scope="module")
def writer(tiny_model) -> PreTrainedTokenizerBase:
    return load_tokenizer(tiny_model)


@pytest.fixture(scope="module")
def reader(tiny_model, tmp_path_factory) -> Path:
    """The same model with another chat template."""
    folder = tmp_path_factory.mktemp("reader") / "model"
    return changed(tiny_model, folder, chat_template=OTHER_TEMPLATE)


def test_a_model_of_the_same_tokenizer_and_template_reads_the_ids_themselves(tiny_model, writer):
    assert own_reading(tiny_model, writer) is None


def test_a_reply_is_rendered_by_the_readers_template_and_end_of_turn(reader, writer):
    reading = own_reading(reader, writer)
    response = render_response(writer, "w3 w4")
    found = reading.sequences([PROMPT], [response], [True])
    own = load_tokenizer(reader)
    assert found == [Sequence(render_prompt(own, PROMPT), render_response(own, "w3 w4"))]
    assert own.decode(found[0].prompt) == "user : w1 w2 <eos> assistant :"
    assert render_prompt(own, PROMPT) != render_prompt(writer, PROMPT)


def test_a_truncated_reply_gets_no_end_of_turn(reader, writer):
    reading = own_reading(reader, writer)
    cut = render_response(writer, "w3 w4")[:-1]
    (found,) = reading.sequences([PROMPT], [cut], [False])
    assert found.response == cut and EOS not in found.response


def test_a_reply_cut_before_its_first_letter_is_scored_at_the_opening_of_the_turn(reader, writer):
    reading = own_reading(reader, writer)
    (found,) = reading.sequences([PROMPT], [[writer.pad_token_id]], [False])
    opening = render_prompt(reading.tokenizer, PROMPT)
    assert found.prompt + found.response == opening and len(found.response) == 1


def test_a_conversation_over_the_readers_context_is_refused_with_both_numbers(reader, writer):
    reading = own_reading(reader, writer)
    with pytest.raises(BadInput, match=r"has 10\d\d tokens .*its context is 1024; lower max_new"):
        reading.sequences([PROMPT], [[7] * 1020], [True])


@pytest.mark.parametrize(
    "changes", [{"eos_token": "<unk>"}, {"chat_template": OTHER_TEMPLATE}], ids=["eos", "template"]
)
def test_another_end_of_turn_or_template_is_another_reading(tiny_model, writer, tmp_path, changes):
    assert not reads_the_same(
        load_tokenizer(changed(tiny_model, tmp_path / "other", **changes)), writer
    )


def test_another_token_is_another_reading_unless_the_reader_only_pads_with_it(tiny_model, writer):
    other = load_tokenizer(tiny_model)
    other.add_special_tokens({"pad_token": "<|pad|>"})
    assert reads_the_same(other, writer)
    assert not reads_the_same(writer, other)  # it would have no embedding for the padding
    other.add_tokens(["another"])
    assert not reads_the_same(other, writer)


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"reward": {"model_at": "difference"}}, r"ppo.reward.model_at is 'difference'"),
        ({"reward_trunk": "reference"}, r"ppo.reward_trunk is 'reference'"),
    ],
)
def test_a_reward_model_that_must_share_the_policys_ids_is_refused_with_other_ones(
    tiny_model, reader, changes, key
):
    assert reward_reading(PPO(**changes), tiny_model, tiny_model) is None
    assert reward_reading(PPO(), tiny_model, reader)
    with pytest.raises(BadInput, match=rf"{key}, but the reward model .*another tokenizer or chat"):
        reward_reading(PPO(**changes), tiny_model, reader)
