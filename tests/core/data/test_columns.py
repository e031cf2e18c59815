"""A column that bears on the prompt is used, refused or named, never dropped."""

import json

import pytest

from rlhf_core.config import Source
from rlhf_core.data.columns import detect_format, rename_columns, unused_columns
from rlhf_core.data.read import read_source
from rlhf_core.data.table import build_table
from rlhf_core.errors import BadInput

USER = {"role": "user", "content": "Why?"}
TERSE = {"role": "system", "content": "You are terse."}
EARLIER = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
PAIR = {"chosen": "So.", "rejected": "No."}


@pytest.fixture
def table(tmp_path):
    """Read rows as the validate stage does."""

    def build(kind, rows, columns=None, **options):
        file = tmp_path / "rows.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        read = read_source(kind, Source(path=str(file)), file)
        return build_table(read, kind, columns or {}, **options)

    return build


def only(table):
    (entry,) = table.entries
    return entry


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"system": "You are terse.", "prompt": "Why?", **PAIR}, [TERSE, USER]),
        ({"system_prompt": "You are terse.", "prompt": "Why?", **PAIR}, [TERSE, USER]),
        ({"system": None, "prompt": "Why?", **PAIR}, [USER]),
        ({"system": "You are terse.", "prompt": [TERSE, USER], **PAIR}, [TERSE, USER]),
        ({"instruction": "Translate.", "input": "cat", **PAIR}, "Translate.\ncat"),
        ({"instruction": "Translate.", "input": "", **PAIR}, "Translate."),
        ({"prompt": "Why?", "history": [["a", "b"]], **PAIR}, [*EARLIER, USER]),
        ({"prompt": "Why?", "history": EARLIER, "system": None, **PAIR}, [*EARLIER, USER]),
        ({"prompt": [*EARLIER, USER], "history": [["a", "b"]], **PAIR}, [*EARLIER, USER]),
        (
            {"prompt": "Why?", "history": [["a", "b"]], "system": "You are terse.", **PAIR},
            [TERSE, *EARLIER, USER],
        ),
        (
            {
                "conversations": [{"from": "human", "value": "Why?"}],
                "chosen": {"from": "gpt", "value": "So."},
                "rejected": {"from": "gpt", "value": "No."},
            },
            [USER],
        ),
        (
            {
                "messages": [USER, {"role": "assistant", "content": "So."}],
                "chosen": [USER, {"role": "assistant", "content": "So."}],
                "rejected": [USER, {"role": "assistant", "content": "No."}],
            },
            [USER],
        ),
    ],
)
def test_system_input_and_history_become_part_of_the_prompt(table, row, prompt):
    entry = only(table("comparisons", [row]))
    if isinstance(prompt, str):
        prompt = [{"role": "user", "content": prompt}]
    assert entry.canonical["prompt"] == prompt
    assert (entry.canonical["chosen"], entry.canonical["rejected"]) == ("So.", "No.")
    assert not entry.notes


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "Why?", "completion": "So.", "label": True},
        {"prompt": "Why?", "response": "So.", "label": 1},
        {"prompt": [USER], "completion": [{"role": "assistant", "content": "So."}], "label": "Up"},
        {"messages": [USER, {"role": "assistant", "content": "So."}], "label": "1"},
    ],
)
def test_feedback_is_a_prompt_a_reply_and_a_label(table, row):
    found = only(table("feedback", [row])).canonical
    assert (found["prompt"], found["response"], found["label"]) == ([USER], "So.", True)
    other = only(table("feedback", [{**row, "label": False}])).canonical
    assert other["label"] is False and other["id"] != found["id"] and other["meta"] == {}


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        (
            {"instruction": "Translate to French.", "input": "cat", "output": "chat"},
            [{"role": "user", "content": "Translate to French.\ncat"}],
        ),
        (
            {
                "conversations": [
                    {"from": "human", "value": "Why?"},
                    {"from": "gpt", "value": "chat"},
                ],
                "system": "You are terse.",
            },
            [TERSE, USER],
        ),
        ({"prompt": "Why?", "completion": "chat"}, [USER]),
        ({"prompt": "Why?", "completion": "chat", "label": True}, [USER]),
    ],
)
def test_alpaca_sharegpt_and_completions_are_demonstrations(table, row, prompt):
    found = only(table("demonstrations", [row])).canonical
    assert (found["prompt"], found["response"]) == (prompt, "chat")


def test_the_columns_of_the_recipe_go_before_the_names_that_are_known(table):
    row = {"instruction": "x", "q": "Why?", "output": "chat"}
    found = only(table("demonstrations", [row], {"prompt": "q"}))
    assert found.canonical["prompt"] == [USER]
    assert found.notes == {"unused_columns": "no stage reads 'instruction'"}
    assert rename_columns("d", ["prompt", "instruction"], {}) == {
        "prompt": "prompt",
        "instruction": "instruction",
    }


@pytest.mark.parametrize(
    ("kind", "row", "reason"),
    [
        ("comparisons", {"prompt": "Why?", "tools": {"name": "w"}, **PAIR}, "tools are {'name'"),
        (
            "comparisons",
            {"prompt": "Why?", "tools": "w", **PAIR},
            "tools is the text 'w'; expected",
        ),
        ("comparisons", {"prompt": "Why?", "tools": [{"x": 1}], **PAIR}, "expected an object with"),
        (
            "comparisons",
            {"prompt": "Why?", "chat_template_kwargs": {"enable_thinking": False}, **PAIR},
            "chat_template_kwargs are given, which no stage passes to the chat template",
        ),
        (
            "comparisons",
            {"prompt": "Why?", "images": ["a.png"], **PAIR},
            "images are given, which no stage passes to the model",
        ),
        (
            "demonstrations",
            {"messages": [USER, {"role": "assistant", "content": "So."}], "input": "cat"},
            "input stands beside a dialogue",
        ),
        (
            "comparisons",
            {"system": "Be kind.", "prompt": [TERSE, USER], **PAIR},
            "system is 'Be kind.', but the dialogue begins",
        ),
        ("comparisons", {"prompt": "Why?", "history": [["a"]], **PAIR}, "message 1 of history"),
        ("comparisons", {"prompt": "Why?", "history": [USER], **PAIR}, "history ends without"),
        ("comparisons", {"prompt": "Why?", "system": 3, **PAIR}, "system is int 3"),
        ("demonstrations", {"prompt": "Why?", "completion": "x", "label": False}, "label is false"),
        ("demonstrations", {"prompt": "W", "completion": "x", "label": "False"}, "label is false"),
        ("demonstrations", {"prompt": "W", "completion": "x", "label": 0}, "label is 0"),
        ("demonstrations", {"prompt": "W", "completion": "x", "label": "0"}, "label is 0"),
        ("demonstrations", {"prompt": "W", "completion": "x", "label": " Down"}, "label is down"),
    ],
)
def test_what_no_stage_can_use_is_refused_with_its_name(table, kind, row, reason):
    entry = only(table(kind, [row]))
    assert entry.rule == "schema" and reason in entry.reason


@pytest.mark.parametrize("tools", [None, [], "[]", "null", ""])
def test_no_tools_are_no_reason_to_refuse(table, tools):
    assert only(table("comparisons", [{"prompt": "Why?", "tools": tools, **PAIR}])).rule is None


def test_single_verdicts_are_no_comparisons_and_the_message_says_so():
    with pytest.raises(BadInput, match=r"one answer a row with a label.*as data\.feedback"):
        detect_format("comparisons", "comparisons", ["label", "prompt", "response"])


def test_a_text_in_a_column_that_no_stage_reads_is_noted_whatever_its_name(table):
    row = {"prompt": "Why?", **PAIR, "context": "A sea.", "passages": ["b"], "id": "7", "n": 3}
    rows = table("comparisons", [row, {"prompt": "Why?", **PAIR, "context": ""}])
    assert [entry.notes for entry in rows.entries] == [
        {"unused_columns": "no stage reads 'context', 'passages'"},
        {},
    ]
    needed = table("comparisons", [row], needed=["context", "passages"])
    assert not only(needed).notes
    assert not only(table("comparisons", [row], ignored=["context", "passages"])).notes


def test_a_column_that_repeats_the_prompt_or_an_answer_is_not_noted(table):
    """UltraFeedback and UltraChat have both `prompt` and the whole `messages`."""
    whole = [USER, {"role": "assistant", "content": "So."}]
    row = {"prompt": "Why?", "messages": whole, "chosen": whole, "rejected": [USER, *whole[1:]]}
    assert not only(table("comparisons", [row])).notes
    assert not only(table("demonstrations", [{"prompt": "Why?", "messages": whole}])).notes
    assert only(table("demonstrations", [{"prompt": "Other.", "messages": whole}])).notes


def test_a_key_of_a_message_that_no_stage_reads_is_noted(table):
    messages = [{**USER, "mood": "cross"}, {"role": "assistant", "content": "So.", "url": "x"}]
    entry = only(table("demonstrations", [{"messages": messages}]))
    assert entry.notes == {"unused_columns": "no stage reads 'messages.mood'"}


def test_ignored_columns_and_keys_are_left_out_and_must_be_there(table):
    messages = [USER, {"role": "assistant", "content": "So.", "name": "Ann"}]
    row = {"messages": messages, "tools": [{"name": "w"}]}
    entry = only(table("demonstrations", [row], ignored=["name", "tools"]))
    assert entry.rule is None and entry.canonical["meta"] == {}
    with pytest.raises(BadInput, match="ignore names 'nmae', but the file has the columns"):
        table("demonstrations", [row], ignored=["nmae"])


def test_an_answer_column_is_not_missed_by_a_source_of_prompts(table):
    row = {"prompt": "Why?", **PAIR, "completion": "x", "label": True, "score_chosen": 1.0}
    assert not only(table("prompts", [row])).notes
    record = {"prompt": [USER]}
    assert unused_columns("prompts", ("prompt",), {"prompt": "Why?", "hint": "h"}, record) == [
        "hint"
    ]


# layouts of published data sets


def said(text):
    return {"role": "assistant", "content": text}


@pytest.mark.parametrize(
    "row",
    [
        {  # UltraFeedback, binarized
            "prompt": "Why?",
            "prompt_id": "a1",
            "messages": [USER, said("So.")],
            "chosen": [USER, said("So.")],
            "rejected": [USER, said("No.")],
            "score_chosen": 8.0,
            "score_rejected": 6.5,
        },
        {  # ORPO-DPO-mix
            "source": "airoboros",
            "prompt": "Why?",
            "question": "Why?",
            "chosen": [USER, said("So.")],
            "rejected": [USER, said("No.")],
        },
        {
            "chosen": "\n\nHuman: Why?\n\nAssistant: So.",
            "rejected": "Human: Why?\n\nAssistant: No.",
        },
        {"instruction": "Why?", "chosen_response": "So.", "rejected_response": "No."},
        {"question": "Why?", **PAIR},  # Orca
        {  # Stanford Human Preferences: the labels say which answer is better
            "history": "Why?",
            "human_ref_A": "No.",
            "human_ref_B": "So.",
            "labels": 0,
            "score_A": 2,
            "score_B": 9,
            "score_ratio": 4.5,
            "domain": "askculinary_train",
            "post_id": "p",
            "c_root_id_A": "x",
        },
        {"history": "Why?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": "1"},
    ],
    ids=["ultrafeedback", "orpo-mix", "hh", "argilla", "orca", "shp-b", "shp-a"],
)
def test_published_preference_data_are_read_as_pairs(table, row):
    found = only(table("comparisons", [row]))
    record = found.canonical
    assert (record["prompt"], record["chosen"], record["rejected"]) == ([USER], "So.", "No.")
    assert not found.notes


def test_a_system_message_beside_a_question_is_used(table):
    row = {"system": "You are terse.", "question": "Why?", **PAIR}
    assert only(table("comparisons", [row])).canonical["prompt"] == [TERSE, USER]


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (["prompt", "answers", "turns"], "'answers' says a ranking of several answers"),  # Nectar
        (["message_tree_id", "tree_state", "prompt"], "'message_tree_id' says a tree of messages"),
        (["message_id", "parent_id", "role", "text"], "'parent_id' says a tree of messages"),
        (["input", "preferred_output"], "'preferred_output' says OpenAI's preference format"),
    ],
)
def test_a_layout_that_has_no_pairs_is_named(columns, reason):
    for kind in ("comparisons", "demonstrations") if "parent_id" in columns else ("comparisons",):
        with pytest.raises(BadInput, match=reason):
            detect_format("data", kind, columns)


def test_shp_labels_that_are_neither_0_nor_1_are_refused(table):
    row = {"history": "Why?", "human_ref_A": "So.", "human_ref_B": "No.", "labels": 2}
    entry = only(table("comparisons", [row]))
    assert entry.rule == "schema" and "labels is 2" in entry.reason


@pytest.mark.parametrize("role", ["system", "developer"])
def test_openais_messages_are_read_with_their_parts_of_text(table, role):
    parts = [{"type": "text", "text": "Wh"}, {"type": "text", "text": "y?"}]
    messages = [{**TERSE, "role": role}, {"role": "user", "content": parts}, said("So.")]
    found = only(table("demonstrations", [{"messages": messages}])).canonical
    assert (found["prompt"], found["response"]) == ([TERSE, USER], "So.")


def test_a_part_that_is_an_image_is_refused_by_its_type(table):
    parts = [{"type": "text", "text": "Why?"}, {"type": "image_url", "image_url": {"url": "x"}}]
    messages = [{"role": "user", "content": parts}, said("So.")]
    entry = only(table("demonstrations", [{"messages": messages}]))
    assert entry.rule == "schema" and "parts of type image_url and text" in entry.reason
