"""Dialogues that somebody wrote as text, stripped or exported come back as dialogues."""

import json

import pytest

from rlhf_core.data.columns import detect_format
from rlhf_core.data.normalise import normalise
from rlhf_core.data.transcripts import RejectedRow, read_messages

USER = {"role": "user", "content": "Why?"}


def dialogue(text):
    return [USER, {"role": "assistant", "content": text}]


def record(kind, row):
    return normalise(kind, detect_format("data", kind, sorted(row)), row)


SHARE_GPT = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]


@pytest.mark.parametrize("write", [json.dumps, repr, lambda value: json.dumps(value, indent=1)])
def test_a_dialogue_as_json_or_python_text_is_a_dialogue_in_every_column(write):
    so, no = write(dialogue("So.")), write(dialogue("No."))
    for row in (
        {"prompt": "Why?", "chosen": so, "rejected": no},
        {"prompt": write([USER]), "chosen": so, "rejected": no},
        {"prompt": write([USER]), "chosen": "So.", "rejected": write(dialogue("No.")[1:])},
        {"chosen": so, "rejected": no},
    ):
        found = record("comparisons", row)
        assert (found["prompt"], found["chosen"], found["rejected"]) == ([USER], "So.", "No.")
    for row in (
        {"messages": so},
        {"messages": write(SHARE_GPT)},
        {"text": so},
        {"prompt": "Why?", "response": so},
    ):
        found = record("demonstrations", row)
        assert (found["prompt"], found["response"]) == ([USER], "So.")


def test_a_written_list_that_is_not_complete_is_refused_and_another_list_stays_text():
    cut = json.dumps(dialogue("So."))[:-5]
    with pytest.raises(RejectedRow, match="chosen is a list of messages as text, which is neither"):
        record("comparisons", {"prompt": "Why?", "chosen": cut, "rejected": "No."})
    for text in ("[1, 2]", "[INST] a", '[{"name": "w"}]', "['a', 'b']", "["):
        assert record("demonstrations", {"prompt": "Why?", "response": text})["response"] == text


@pytest.mark.parametrize(
    ("prompt", "so", "no"),
    [
        (
            "Human: Why?\n\nAssistant:",
            "Human: Why?\n\nAssistant: So.",
            "Human: Why?\n\nAssistant: No.",
        ),
        (
            "\n\nHuman: Why?\n\nAssistant:",
            "\n\nHuman: Why?\n\nAssistant: So.",
            "Human: Why?\nAssistant: No.",
        ),
        ("Why?", "Human: Why?\n\nAssistant: So.", "No."),
        ("Human: Why?", "\n\nAssistant: So.", "Assistant: No."),
        (
            "Human: Why?\r\n\r\nAssistant:",
            "Human: Why?\r\n\r\nAssistant: So.",
            "Human: Why?\r\nAssistant: No.",
        ),
        ("Human: Why?\nAssistant:", "So.", "No."),
    ],
)
def test_a_transcript_is_read_with_or_without_blank_lines_around_it(prompt, so, no):
    found = record("comparisons", {"prompt": prompt, "chosen": so, "rejected": no})
    assert (found["prompt"], found["chosen"], found["rejected"]) == ([USER], "So.", "No.")


def test_turns_on_lines_of_their_own_are_found_where_no_blank_line_parts_them():
    text = "Human: a\nAssistant: b\nmore\nHuman: c\nAssistant: d"
    assert [m["content"] for m in read_messages(text, "text")] == ["a", "b\nmore", "c", "d"]
    quoted = "\n\nHuman: what is\nAssistant: x?\n\nAssistant: A label."
    assert [m["content"] for m in read_messages(quoted, "text")] == [
        "what is\nAssistant: x?",
        "A label.",
    ]


def test_an_answer_that_is_a_dialogue_of_the_user_alone_is_refused():
    with pytest.raises(RejectedRow, match="response ends with a user's message"):
        record("demonstrations", {"prompt": "Why?", "response": "Human: Why?"})


@pytest.mark.parametrize(
    ("key", "value"),
    [("tool_call_id", "1"), ("reasoning_content", "Because."), ("name", "Ann"), ("weight", 0)],
)
def test_what_a_message_says_besides_its_text_is_refused_by_its_name(key, value):
    messages = [USER, {"role": "assistant", "content": "So.", key: value}]
    with pytest.raises(RejectedRow, match=rf"message 2 of messages has {key} .*ignore = \['{key}'"):
        read_messages(messages, "messages")


def test_empty_keys_of_a_message_say_nothing():
    keys = {"tool_calls": None, "function_call": {}, "name": "", "weight": 1, "images": []}
    messages = [{**m, **keys} for m in dialogue("So.")]
    assert read_messages(messages, "messages") == dialogue("So.")
