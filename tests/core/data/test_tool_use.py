"""Tools and tool calls reach the chat template; a template that ignores them is refused by name."""

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from rlhf_core.data.chat_template import DEFAULT_CHAT_TEMPLATE, prompt_text
from rlhf_core.data.columns import detect_format
from rlhf_core.data.normalise import normalise
from rlhf_core.data.render import render_demonstration, render_prompt
from rlhf_core.data.splits import prompt_key
from rlhf_core.data.tool_use import parsed_calls, parsed_tools, with_tools
from rlhf_core.data.transcripts import RejectedRow
from rlhf_core.data.truncation import shortened
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput
from rlhf_core.evidence.items import item_id, prompt_id
from rlhf_core.judging.functions import conversation

WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Rome"}}}
USER = {"role": "user", "content": "Warm?"}
ASKS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "31 C"}
ANSWER = {"role": "assistant", "content": "Yes."}
WHOLE = [USER, ASKS, RESULT, ANSWER]
TEMPLATE = (
    "{% if tools %}<tools>{{ tools | tojson }}<end>{% endif %}"
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}"
    "{% for call in m.tool_calls or [] %}<call>{{ call.function | tojson }}{% endfor %}<end>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
NO_RESULT = "{{ '' if m.role == 'tool' else m.content }}"
NAMES = ["<end>", "<tools>", "<call>", "<user>", "<assistant>", "<tool>", "<system>"]


@pytest.fixture(scope="module")
def tokenizer():
    """Return a byte-level tokenizer whose template writes tools, calls and their results."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=NAMES, initial_alphabet=alphabet, show_progress=False
    )
    core.train_from_iterator(["Warm"], trainer)
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>")
    made.add_special_tokens({"additional_special_tokens": NAMES[1:]})
    made.chat_template = TEMPLATE
    return made


@pytest.fixture
def with_template(tokenizer):
    """Give the tokenizer another template until the test ends."""

    def change(template: str) -> PreTrainedTokenizerFast:
        tokenizer.chat_template = template
        return tokenizer

    yield change
    tokenizer.chat_template = TEMPLATE


def demonstration(row: dict) -> dict:
    return normalise("demonstrations", detect_format("d", "demonstrations", sorted(row)), row)


# reading


@pytest.mark.parametrize(
    "call",
    [
        {"tool_calls": [CALL]},
        {"tool_calls": json.dumps([CALL])},
        {"tool_calls": [{"function": {"name": "weather", "arguments": '{"city": "Rome"}'}}]},
        {"tool_calls": [{"name": "weather", "arguments": {"city": "Rome", "day": None}}]},
        {"function_call": {"name": "weather", "arguments": '{"city": "Rome"}'}},
    ],
)
def test_calls_of_every_format_are_the_same_calls(call):
    assert parsed_calls(call) == [CALL]
    found = demonstration(
        {"messages": [USER, {"role": "assistant", "content": None, **call}, *WHOLE[2:]]}
    )
    assert (found["prompt"], found["response"]) == (WHOLE[:3], "Yes.")


def test_sharegpt_names_calls_and_results_by_their_role():
    turns = [
        {"from": "human", "value": "Warm?"},
        {"from": "function_call", "value": json.dumps(CALL["function"])},
        {"from": "observation", "value": "31 C"},
        {"from": "gpt", "value": "Yes."},
    ]
    tools = json.dumps([WEATHER["function"]])
    found = demonstration({"messages": turns, "tools": tools})
    assert found["prompt"] == [USER | {"tools": [WEATHER]}, ASKS, RESULT]


@pytest.mark.parametrize(
    "tools", [[WEATHER], [WEATHER["function"]], json.dumps([WEATHER]), [WEATHER | {"strict": None}]]
)
def test_tools_of_every_format_are_the_same_tools(tools):
    assert parsed_tools(tools) == [WEATHER]
    pair = {"prompt": "Warm?", "chosen": "Yes.", "rejected": "No."}
    for column in ("tools", "functions"):
        found = normalise("comparisons", ("prompt", "chosen", "rejected"), pair | {column: tools})
        assert found["prompt"] == [USER | {"tools": [WEATHER]}]
    assert normalise("prompts", ("prompt",), {"prompt": "Warm?", "tools": tools})["prompt"] == [
        USER | {"tools": [WEATHER]}
    ]


def test_a_call_is_no_answer_to_train_and_its_key_belongs_to_the_assistant():
    with pytest.raises(
        RejectedRow, match="messages ends with a call of a tool; expected an answer"
    ):
        demonstration({"messages": WHOLE[:2]})
    with pytest.raises(RejectedRow, match="message 1 of messages is a user's and calls a tool"):
        demonstration({"messages": [USER | {"tool_calls": [CALL]}, ANSWER]})
    with pytest.raises(RejectedRow, match=r"message 2 of messages: a tool call is .*; expected"):
        demonstration({"messages": [USER, ASKS | {"tool_calls": [{"x": 1}]}, RESULT, ANSWER]})


def test_rows_that_differ_in_tools_or_calls_are_different_rows():
    other = [USER, ASKS | {"tool_calls": [CALL | {"id": "2"}]}, *WHOLE[2:]]
    rows = [{"messages": WHOLE}, {"messages": WHOLE, "tools": [WEATHER]}, {"messages": other}]
    found = [demonstration(row) for row in rows]
    assert len({record["id"] for record in found}) == 3
    assert len({prompt_key(record["prompt"]) for record in found}) == 3


# rendering


def test_the_template_gets_tools_calls_and_results(tokenizer):
    prompt = demonstration({"messages": WHOLE, "tools": [WEATHER]})["prompt"]
    assert prompt_text(tokenizer, prompt) == (
        f"<tools>{json.dumps([WEATHER])}<end><user>Warm?<end>"
        f"<assistant><call>{json.dumps(CALL['function'])}<end><tool>31 C<end><assistant>"
    )


def test_only_the_answers_in_text_are_trained(tokenizer):
    prompt = [USER, ASKS, RESULT, ANSWER, USER]
    (row,) = render_demonstration(tokenizer, prompt, "No.", train_on="all")
    trained = [id for id, learns in zip(row.response, row.trained, strict=True) if learns]
    assert tokenizer.decode(trained) == "Yes.<end>No.<end>"
    assert "<call>" in tokenizer.decode(row.prompt)


def test_a_special_token_in_tools_arguments_and_results_stays_text(tokenizer):
    function = WEATHER["function"] | {"description": "a<end>b"}
    call = {"type": "function", "function": {"name": "weather", "arguments": {"<call>": "<user>"}}}
    prompt = [
        USER | {"tools": [WEATHER | {"function": function}]},
        ASKS | {"tool_calls": [call]},
        RESULT | {"content": "31<end>"},
    ]
    ids = render_prompt(tokenizer, prompt)
    counts = {name: ids.count(tokenizer.convert_tokens_to_ids(name)) for name in NAMES}
    expected = {"<end>": 4, "<tools>": 1, "<call>": 1, "<user>": 1, "<assistant>": 2, "<tool>": 1}
    assert counts == expected | {"<system>": 0}
    assert tokenizer.decode(ids) == prompt_text(tokenizer, prompt)


@pytest.mark.parametrize(
    ("template", "prompt", "what"),
    [
        (DEFAULT_CHAT_TEMPLATE, [USER | {"tools": [WEATHER]}], "tools"),
        (DEFAULT_CHAT_TEMPLATE, WHOLE[:3], "tool_calls"),
        (TEMPLATE.replace("{{ m.content }}", NO_RESULT), WHOLE[:3], "messages of the role tool"),
    ],
)
def test_a_template_that_ignores_tools_is_refused_and_says_what(
    with_template, template, prompt, what
):
    tokenizer = with_template(template)
    with pytest.raises(BadInput, match=rf"chat template ignores {what}; .*ignore = \['tools'"):
        prompt_text(tokenizer, prompt)


def test_a_prompt_that_is_cut_from_the_left_keeps_its_tools(tokenizer):
    later = {"role": "user", "content": "And " + "really " * 9 + "warm?"}
    for system in ([], [{"role": "system", "content": "Be kind."}]):
        whole = with_tools([*system, *WHOLE, later], [WEATHER])
        left = with_tools([*system, later], [WEATHER])
        size = len(render_prompt(tokenizer, left))
        assert shortened(whole, size, tokenizer) == left
        cut = shortened(whole, size - 20, tokenizer)
        assert cut[0]["tools"] == [WEATHER] and cut[-1]["content"].endswith("warm?")


def test_judges_and_reward_functions_read_the_calls_as_well():
    assert conversation(WHOLE[:3]) == (
        'user: Warm?\n\nassistant: {"name": "weather", "arguments": {"city": "Rome"}}\n\ntool: 31 C'
    )


def test_items_of_prompts_with_other_tools_or_calls_are_other_items():
    prompts = [
        WHOLE[:3],
        [USER | {"tools": [WEATHER]}, *WHOLE[1:3]],
        [USER, WHOLE[1] | {"tool_calls": []}, RESULT],
    ]
    assert len({prompt_id(prompt, "Yes.") for prompt in prompts}) == 3
    plain = [USER, ANSWER, USER]
    assert prompt_id(plain) == item_id(digest_json([[m["role"], m["content"]] for m in plain]))
