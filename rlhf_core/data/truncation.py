"""Shorten prompts over the limit from the left: the oldest turns go, then the oldest text.

The system message and the last turn's end stay, and so do all responses.
"""

import re
from dataclasses import replace
from functools import partial

from transformers import PreTrainedTokenizerBase

from rlhf_core.data.normalise import record_id
from rlhf_core.data.render import render_prompt
from rlhf_core.data.rows.store import MemoryStore
from rlhf_core.data.table import TableEntry
from rlhf_core.data.tool_use import split_tools, with_tools
from rlhf_core.data.transcripts import Messages
from rlhf_core.errors import BadInput

RULE = "truncated"  # under which a shortened row is noted
_LONGEST_WORD = 40  # letters; a cut inside a longer word stays where it is


def truncated(entry: TableEntry, limit: int, tokenizer: PreTrainedTokenizerBase) -> TableEntry:
    """Return a row whose prompt is over `limit` tokens with a shorter one, and a note.

    A prompt that cannot be shortened enough, because the system message alone is too long, stays.
    """
    record = entry.canonical
    messages = shortened(record["prompt"], limit, tokenizer)
    if messages is None:
        return entry
    record |= {"prompt": messages}
    record["id"] = record_id(record)
    before, after = entry.tokens["prompt"], len(render_prompt(tokenizer, messages))
    note = f"the prompt had {before} tokens; its last {after} are kept"
    return replace(
        entry,
        store=MemoryStore(
            partial(entry.store.row, entry.place), record | {"id": record_id(record)}
        ),
        tokens={**entry.tokens, "prompt": after},
        notes={**entry.notes, RULE: note},
        root=entry.root_key,
    )


def shortened(
    messages: Messages, limit: int, tokenizer: PreTrainedTokenizerBase
) -> Messages | None:
    """Return the messages without as much of the oldest text as the limit asks.

    limit: tokens, with the chat template. Whole turns go first: what is left begins with a user's
    turn. If the last one alone is too long, its beginning goes, at a word where there is one.
    Return None when not even its last letter fits.
    """
    first = 1 if messages[0]["role"] == "system" else 0
    system, turns = messages[:first], messages[first:]
    starts = [place for place, turn in enumerate(turns) if turn["role"] == "user" and place]
    tools = split_tools(messages)[1] or []  # of the whole dialogue, whichever message is the first
    for start in starts:
        if _fits(left := with_tools([*system, *turns[start:]], tools), limit, tokenizer):
            return left
    rest = turns[starts[-1] if starts else 0 :]
    return _with_text_cut(system, rest if system else with_tools(rest, tools), limit, tokenizer)


def _with_text_cut(
    system: Messages, turns: Messages, limit: int, tokenizer: PreTrainedTokenizerBase
) -> Messages | None:
    """Return the messages with the beginning of the first turn's text cut off; None: none fits."""
    if not turns:
        return None
    text = turns[0]["content"]

    def cut(start: int) -> Messages:
        return [*system, turns[0] | {"content": text[start:]}, *turns[1:]]

    low, high = 0, len(text)  # the text from `low` on is too long, from `high` on it is empty
    while high - low > 1:
        middle = (low + high) // 2
        if _fits(cut(middle), limit, tokenizer):
            high = middle
        else:
            low = middle
    start = _next_word(text, high)
    while start < len(text) and not _fits(cut(start), limit, tokenizer):
        start += 1  # a tokenizer may join a shorter text's beginning less well
    return cut(start) if text[start:].strip() else None


def _next_word(text: str, start: int) -> int:
    """Return the place where the next word begins, or `start` inside a text without blanks."""
    if text[start - 1].isspace():
        return start
    blank = re.search(r"\s+", text[start : start + _LONGEST_WORD])
    ahead = start + blank.end() if blank else start
    return ahead if ahead < len(text) else start


def _fits(messages: Messages, limit: int, tokenizer: PreTrainedTokenizerBase) -> bool:
    try:
        return len(render_prompt(tokenizer, messages)) <= limit
    except BadInput:  # the template refuses a dialogue that begins so
        return False
