"""Prompts over the limit: which turns and words stay, and what is reported."""

import json
from functools import partial
from itertools import pairwise

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from rlhf_core.config import Data, Rules
from rlhf_core.data.chat_template import ensure_chat_template
from rlhf_core.data.checks import source_checks
from rlhf_core.data.render import render_prompt
from rlhf_core.data.rows.store import MemoryStore
from rlhf_core.data.rules import apply_row_rules, assign_splits
from rlhf_core.data.splits import SPLITS
from rlhf_core.data.table import Table, TableEntry
from rlhf_core.data.truncation import shortened


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word; the default template adds a role and, after an assistant's text, EOS."""
    roles = [f"<|{role}|>" for role in ("system", "user", "assistant")]
    words = ["<eos>", "<unk>", *roles, *(f"w{i}" for i in range(60))]
    core = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    ensure_chat_template(made)
    return made


def words(first: int, last: int) -> str:
    return " ".join(f"w{i}" for i in range(first, last + 1))


def turn(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


SYSTEM = turn("system", words(1, 2))  # 3 tokens with its role
DIALOGUE = [
    SYSTEM,
    turn("user", words(3, 5)),  # 4
    turn("assistant", words(6, 9)),  # 5 and EOS
    turn("user", words(10, 11)),  # 3
    turn("assistant", words(12, 12)),  # 2 and EOS
    turn("user", words(13, 16)),  # 5, then the role that opens the reply
]


def test_whole_turns_go_from_the_oldest_on_by_hand(tokenizer):
    assert len(render_prompt(tokenizer, DIALOGUE)) == 3 + 4 + 6 + 3 + 3 + 5 + 1
    for limit, kept in ((24, [0, 3, 4, 5]), (15, [0, 3, 4, 5]), (14, [0, 5]), (9, [0, 5])):
        assert shortened(DIALOGUE, limit, tokenizer) == [DIALOGUE[i] for i in kept]


def test_then_the_oldest_words_of_the_last_turn_go_and_the_system_message_stays(tokenizer):
    for limit, left in ((8, words(14, 16)), (7, words(15, 16)), (6, "w16")):
        assert shortened(DIALOGUE, limit, tokenizer) == [SYSTEM, turn("user", left)]
    assert shortened(DIALOGUE, 5, tokenizer) is None  # nothing of the question would be left


def test_a_single_message_keeps_its_end(tokenizer):
    assert shortened([turn("user", words(1, 50))], 12, tokenizer) == [turn("user", words(41, 50))]


def test_a_text_without_blanks_is_cut_between_letters():
    """One token per letter: three of the message, and those of the template."""
    letters = {chr(code): number for number, code in enumerate(range(33, 127), start=2)}
    core = Tokenizer(models.WordLevel({"<eos>": 0, "<unk>": 1} | letters, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made = PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<eos>", unk_token="<unk>")
    made.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %}"
    assert shortened([turn("user", "abcdefghij")], 3, made) == [turn("user", "hij")]


def test_a_dialogue_that_a_template_refuses_is_not_made(tokenizer):
    """Here a template that wants more of the first turn after the system message than w9."""
    strict = "{% if messages[1]['content'] == 'w9' %}{{ raise_exception('no') }}{% endif %}"
    other = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer, eos_token="<eos>", unk_token="<unk>"
    )
    other.chat_template = strict + tokenizer.chat_template
    turns = [turn("user", words(1, 9)), turn("assistant", "w1")]
    dialogue = [SYSTEM, *turns, turn("user", "w9"), turn("assistant", "w2"), turn("user", "w8 w7")]
    assert shortened(dialogue, 13, tokenizer)[1:] == dialogue[3:]
    assert shortened(dialogue, 13, other)[1:] == dialogue[5:]


def rows(*prompts: list[dict[str, str]], response: str = "w1") -> Table:
    entries = [
        TableEntry(
            line,
            MemoryStore(
                partial(dict, prompt=json.dumps(prompt)),
                {"id": str(line), "prompt": prompt, "response": response, "meta": {}},
            ),
        )
        for line, prompt in enumerate(prompts, start=1)
    ]
    return Table("demonstrations", "demonstrations", "d.jsonl", ("prompt",), entries)


def data(**values) -> Data:
    limits = {"max_prompt_tokens": 12, "max_response_tokens": 4}
    return Data(demonstrations="d", comparisons="c", **limits | values)


SHORT, LONG = [turn("user", "w1 w2")], [turn("user", words(1, 30))]


def test_rows_are_dropped_shortened_or_refused_as_the_key_says(tokenizer):
    dropped, cut, refused = (
        apply_row_rules(rows(SHORT, LONG), data(overlong=kind), tokenizer)
        for kind in ("drop", "truncate_left", "error")
    )
    assert [entry.rule for entry in dropped.entries] == [None, "length"]
    assert [entry.rule for entry in cut.entries] == [None, None]
    assert [entry.rule for entry in refused.entries] == [None, "length"]
    kept = cut.entries[1]
    assert kept.canonical["prompt"] == [turn("user", words(21, 30))]
    assert kept.tokens == {"prompt": 12, "response": 2}
    assert kept.notes == {"truncated": "the prompt had 32 tokens; its last 12 are kept"}
    assert cut.entries[0].notes == {} and cut.entries[0].canonical["id"] == "1"

    def severities(table: Table, options: Data) -> dict[str, str]:
        checks = source_checks(table, options.checked_rules)
        return {c.rule: c.severity for c in checks if c.rule in ("length", "truncated")}

    assert severities(dropped, data()) == {"length": "warning"}
    assert severities(cut, data(overlong="truncate_left")) == dict.fromkeys(
        ("length", "truncated"), "warning"
    )
    assert severities(refused, data(overlong="error")) == {"length": "error"}
    off = data(overlong="error", rules=Rules(length="off"))
    assert severities(refused, off) == {"length": "error"}


def test_a_response_is_never_cut(tokenizer):
    given = rows(LONG, response=words(1, 9))
    found = apply_row_rules(given, data(overlong="truncate_left"), tokenizer).entries[0]
    assert found.rule == "length" and "response has 10 tokens" in found.reason
    assert found.canonical["response"] == words(1, 9)


def test_a_prompt_that_is_all_system_message_is_dropped(tokenizer):
    given = rows([turn("system", words(1, 30)), turn("user", "w1")])
    found = apply_row_rules(given, data(overlong="truncate_left"), tokenizer).entries[0]
    assert found.rule == "length" and "prompt has 34 tokens" in found.reason


def test_rows_that_are_equal_after_the_cut_are_one_row_on_one_side(tokenizer):
    """Eight dialogues with the same end: seven are duplicates of the first."""
    ends = [[turn("user", f"w{i} {words(20, 40)}")] for i in range(1, 9)]
    options = data(overlong="truncate_left")
    table = apply_row_rules(rows(*ends), options, tokenizer)
    assert [entry.rule for entry in table.entries] == [None, *["duplicates"] * 7]
    ids = [entry.canonical["id"] for entry in table.entries]
    assert all(a == b for a, b in pairwise(ids)) and ids[0] != "1"
    split = assign_splits({"demonstrations": table}, options)["demonstrations"]
    assert {entry.split for entry in split.kept} <= set(SPLITS)
