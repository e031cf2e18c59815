"""A scorer or judge that gives anything wrong is an error that names it, never a score of 0."""

import math

import pytest

from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.judging.functions import call, conversation, with_messages

REPLIES = ["a", "b"]


TURNS = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "why?"},
    {"role": "assistant", "content": "because"},
    {"role": "user", "content": "why that?"},
]


def test_the_text_of_a_prompt_is_the_whole_conversation_with_its_roles():
    assert conversation([{"role": "user", "content": "why?"}]) == "why?"
    assert (
        conversation(TURNS)
        == "system: be brief\n\nuser: why?\n\nassistant: because\n\nuser: why that?"
    )


def test_a_function_with_a_parameter_messages_gets_the_messages_themselves():
    def asks(prompts, replies, messages):
        return [float(len(own)) for own in messages]

    def asks_by_keyword(prompts, replies, *, messages=None):
        return [float(len(own)) for own in messages]

    for function in (asks, asks_by_keyword):
        bound = with_messages(function, [TURNS, TURNS[:2]], lists=2)
        assert call(bound, "scorer", REPLIES, REPLIES) == [4.0, 2.0]


def test_a_function_of_two_lists_is_called_as_before_whatever_they_are_called():
    def two(prompts, replies):
        return [1.0, 2.0]

    def named_otherwise(messages, replies):
        return [float(len(text)) for text in messages]

    assert with_messages(two, [TURNS, TURNS], lists=2) is two
    bound = with_messages(named_otherwise, [TURNS, TURNS], lists=2)
    assert call(bound, "scorer", REPLIES, REPLIES) == [1.0, 1.0]
    assert with_messages(max, [TURNS], lists=2) is max


def test_values_come_back_as_floats():
    assert call(lambda prompts, replies: (1, 0.5), "scorer", REPLIES, REPLIES) == [1.0, 0.5]


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ([1.0], "1 values for 2 replies"),
        ([1.0, 2.0, 3.0], "3 values for 2 replies"),
        ([1.0, math.nan], "nan for reply 1"),
        ([math.inf, 1.0], "inf for reply 0"),
        ([None, 1.0], "None for reply 0"),
        (["1", 1.0], "'1' for reply 0"),
        ([[1.0], 1.0], r"\[1.0\] for reply 0"),
        (None, "TypeError"),
    ],
)
def test_anything_but_one_finite_number_a_reply_is_refused(values, found):
    with pytest.raises(BadInput, match=f"the scorer .*{found}"):
        call(lambda prompts, replies: values, "scorer", REPLIES, REPLIES)


def test_an_exception_is_refused_with_its_kind_and_cause():
    def crashing(prompts, replies):
        raise KeyError("table")

    with pytest.raises(BadInput, match="the judge failed with KeyError: 'table'") as refused:
        call(crashing, "judge", REPLIES, REPLIES)
    assert isinstance(refused.value.__cause__, KeyError)


def test_an_error_of_this_project_keeps_its_kind():
    def crashing(prompts, replies):
        raise ConfigError("prompt 3 is no request")

    with pytest.raises(ConfigError, match="prompt 3"):
        call(crashing, "scorer", REPLIES, REPLIES)
