"""Formats people have become canonical records; what does not fit is named with rule and reason."""

import pytest
from recipes import tiny_recipe

from rlhf_core.data.columns import detect_format, rename_columns
from rlhf_core.data.normalise import as_json_value, normalise
from rlhf_core.data.transcripts import RejectedRow
from rlhf_core.errors import BadInput

ASKED = [{"role": "user", "content": "Why?"}]
THREE = [
    *ASKED,
    {"role": "assistant", "content": "Who knows."},
    {"role": "user", "content": "You."},
]


def answer(text):
    return {"role": "assistant", "content": text}


def record(kind, row):
    return normalise(kind, detect_format("data", kind, sorted(row)), row)


def transcript(*turns):
    return "".join(
        f"\n\n{'Human' if i % 2 == 0 else 'Assistant'}: {turn}" for i, turn in enumerate(turns)
    )


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "response": "So."}, ASKED),
        ({"prompt": ASKED, "response": "So."}, ASKED),
        ({"prompt": ASKED, "response": [answer("So.")]}, ASKED),
        ({"messages": [*THREE, answer("So.")]}, THREE),
        (
            {"messages": [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "So."}]},
            ASKED,
        ),
        ({"text": transcript("Why?", "So.")}, ASKED),
        ({"chosen": transcript("Why?", "Who knows.", "You.", "So.")}, THREE),
        ({"prompt": transcript("Why?") + "\n\nAssistant:", "response": "So."}, ASKED),
    ],
)
def test_every_form_of_demonstration_gives_prompt_and_response(row, prompt):
    found = record("demonstrations", row)
    assert (found["prompt"], found["response"]) == (prompt, "So.")


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?", "chosen": "So.", "rejected": "No."}, ASKED),
        ({"prompt": ASKED, "chosen": [answer("So.")], "rejected": [answer("No.")]}, ASKED),
        (
            {
                "prompt": "Why?",
                "chosen": [*ASKED, answer("So.")],
                "rejected": [*ASKED, answer("No.")],
            },
            ASKED,
        ),
        ({"chosen": [*THREE, answer("So.")], "rejected": [*THREE, answer("No.")]}, THREE),
        ({"chosen": transcript("Why?", "So."), "rejected": transcript("Why?", "No.")}, ASKED),
        (
            {
                "chosen": transcript("Why?", "Who knows.", "You.", "So."),
                "rejected": transcript("Why?", "Who knows.", "You.", "No."),
            },
            THREE,
        ),
    ],
)
def test_every_form_of_comparison_gives_the_common_prompt_and_two_answers(row, prompt):
    found = record("comparisons", row)
    assert (found["prompt"], found["chosen"], found["rejected"]) == (prompt, "So.", "No.")


def test_a_transcript_keeps_paragraphs_and_colons_inside_a_turn():
    found = record(
        "demonstrations", {"text": transcript("List: a\n\nb Human: c", "First.\n\nSecond: x")}
    )
    assert found["prompt"][0]["content"] == "List: a\n\nb Human: c"
    assert found["response"] == "First.\n\nSecond: x"


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "Why?"}, ASKED),
        ({"messages": [*THREE, answer("So.")]}, THREE),
        ({"messages": THREE}, THREE),
        ({"chosen": transcript("Why?", "So."), "rejected": transcript("Why?", "No.")}, ASKED),
        ({"text": transcript("Why?")}, ASKED),
    ],
)
def test_every_form_of_prompt_gives_messages(row, prompt):
    assert record("prompts", row)["prompt"] == prompt


@pytest.mark.parametrize(
    ("columns", "votes"),
    [
        ({"votes_for": 4, "votes_against": 1}, (4, 1)),
        ({"votes_for": "4", "votes_against": 1.0}, (4, 1)),
        ({"labels": [1, 1, 0]}, (2, 1)),
        ({"votes": ["chosen", "rejected", "chosen"]}, (2, 1)),
        ({"votes_for": None, "votes_against": float("nan")}, (None, None)),
        ({"labels": "helpful"}, (None, None)),
        ({}, (None, None)),
    ],
)
def test_votes_are_counted_from_two_columns_or_a_list(columns, votes):
    found = record("comparisons", {"prompt": "Why?", "chosen": "So.", "rejected": "No.", **columns})
    assert (found["votes_for"], found["votes_against"]) == votes


PAIR = {"prompt": "Why?", "chosen": "So.", "rejected": "No."}


@pytest.mark.parametrize(
    ("kind", "row", "rule", "reason"),
    [
        (
            "demonstrations",
            {"prompt": {"a": 1}, "response": "So."},
            "schema",
            "prompt is the object {'a': 1}; expected text, or a message with role and content",
        ),
        ("demonstrations", {"prompt": None, "response": "So."}, "empty_text", "prompt is null"),
        (
            "demonstrations",
            {"prompt": "Why?", "response": " \n"},
            "empty_text",
            "response is empty",
        ),
        (
            "demonstrations",
            {"prompt": 3, "response": "So."},
            "schema",
            "prompt is int 3; expected text",
        ),
        ("demonstrations", {"messages": []}, "empty_text", "messages holds no messages"),
        ("demonstrations", {"messages": ["hi"]}, "schema", "message 1 of messages is str"),
        ("demonstrations", {"messages": THREE}, "schema", "ends with a user's message"),
        ("demonstrations", {"messages": [answer("So.")]}, "schema", "no question before"),
        (
            "demonstrations",
            {"messages": [{"role": "robot", "content": "x"}]},
            "schema",
            "the role 'robot'",
        ),
        (
            "demonstrations",
            {"messages": [*ASKED, answer(None)]},
            "empty_text",
            "message 2 of messages is null",
        ),
        ("demonstrations", {"text": "Just text."}, "schema", "text without a prompt"),
        ("comparisons", {"chosen": "So.", "rejected": "No."}, "schema", "text without a prompt"),
        (
            "comparisons",
            {"chosen": [*ASKED, answer("So.")], "rejected": [*THREE, answer("No.")]},
            "schema",
            "part after 1",
        ),
        (
            "comparisons",
            {"prompt": "Why?", "chosen": [*THREE, answer("So.")], "rejected": "No."},
            "schema",
            "not continue",
        ),
        ("comparisons", {**PAIR, "votes_for": 1}, "schema", "expected both or neither"),
        ("comparisons", {**PAIR, "votes_for": -1, "votes_against": 2}, "schema", "votes_for is -1"),
        (
            "comparisons",
            {**PAIR, "votes_for": True, "votes_against": 2},
            "schema",
            "votes_for is True",
        ),
        ("comparisons", {**PAIR, "labels": [0, 5]}, "schema", "expected a list of 0/1"),
        (
            "prompts",
            {"prompt": [*ASKED, answer("So.")]},
            "schema",
            "ends with an assistant's message",
        ),
    ],
)
def test_a_row_that_is_no_record_says_rule_and_reason(kind, row, rule, reason):
    with pytest.raises(RejectedRow, match=reason) as caught:
        record(kind, row)
    assert caught.value.rule == rule


def test_the_id_depends_on_the_texts_and_not_on_other_columns():
    plain_pair, noted, other = (
        record("comparisons", PAIR),
        record("comparisons", {**PAIR, "model": "x"}),
        {**PAIR, "chosen": "S"},
    )
    assert plain_pair["id"] == noted["id"] != record("comparisons", other)["id"]
    assert len(noted["id"]) == 16 and noted["meta"] == {"model": "x"}


def test_unknown_columns_are_refused_with_what_was_found_and_the_remedy():
    with pytest.raises(
        BadInput,
        match=r"found the columns \['answer', 'question'\].*\{prompt, response\}.*columns = ",
    ):
        detect_format("demonstrations", "demonstrations", ["answer", "question"])


def test_the_remedy_for_later_labels_names_a_key_that_recipes_have():
    """Bug: it said data.new_comparisons_1."""
    with pytest.raises(BadInput) as refused:
        detect_format("new_comparisons_1", "comparisons", ["bad", "good", "question"])
    assert "e.g. data.new_comparisons = {path" in str(refused.value)
    mapped = {"path": "n.jsonl", "columns": {"prompt": "question"}}
    data = {"demonstrations": "d", "comparisons": "c", "new_comparisons": mapped}
    (source,) = tiny_recipe(data=data).data.new_comparisons
    assert source.columns == {"prompt": "question"}


def test_mapped_columns_take_the_canonical_name_and_hide_nothing():
    names = rename_columns("d", ["question", "prompt", "response"], {"prompt": "question"})
    assert names == {"question": "prompt", "prompt": "prompt_unmapped", "response": "response"}
    with pytest.raises(BadInput, match=r"maps to \['q'\]"):
        rename_columns("d", ["question"], {"prompt": "q"})
    with pytest.raises(BadInput, match=r"maps \['promt'\]"):
        rename_columns("d", ["question"], {"promt": "question"})


def test_meta_holds_only_what_json_can():
    assert as_json_value({"a": float("nan"), 1: [b"x", (2.5, None)]}) == {
        "a": None,
        "1": ["b'x'", [2.5, None]],
    }
