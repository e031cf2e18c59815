"""The columns of a source: their canonical names, their format, and those that are left over."""

import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

from rlhf_core.config.data.section import NEW_COMPARISONS
from rlhf_core.data.splits import is_new
from rlhf_core.data.transcripts import MESSAGE_KEYS
from rlhf_core.errors import BadInput

RowKind = Literal["demonstrations", "comparisons", "feedback", "prompts"]
LABELLED = ("comparisons", "feedback")  # kinds of rows of which one may contradict another
# texts that stand before or beside the prompt, and become part of it
CONTEXT = ("system", "history", "input")
CANONICAL = (
    "prompt",
    "response",
    "messages",
    "text",
    "chosen",
    "rejected",
    "votes_for",
    "votes_against",
    "votes",
    "labels",
    "strength",
    *CONTEXT,
    "tools",
    "functions",
    "label",
)
# other names of a canonical column, taken where the file has no column of the canonical name
ALIASES = {
    "conversations": "messages",  # ShareGPT
    "conversation": "messages",
    "instruction": "prompt",  # Alpaca
    "output": "response",
    "completion": "response",  # TRL, KTO
    "system_prompt": "system",
    "chosen_response": "chosen",
    "rejected_response": "rejected",
}
# Stanford Human Preferences: a post, two answers, and labels 1 where the first is the better one
SHP = ("history", "human_ref_A", "human_ref_B", "labels")
# columns by which a format is recognised; the first format whose columns are all there counts
FORMATS: dict[RowKind, tuple[tuple[str, ...], ...]] = {
    "demonstrations": (
        ("prompt", "response"),
        ("messages",),
        ("prompt", "chosen"),
        ("chosen",),
        ("text",),
    ),
    "comparisons": (
        ("prompt", "chosen", "rejected"),
        ("messages", "chosen", "rejected"),
        ("chosen", "rejected"),
        SHP,
    ),
    "feedback": (("prompt", "response", "label"), ("messages", "label")),
    "prompts": (("prompt",), ("messages",), ("chosen", "rejected"), ("text",)),
}
# columns of layouts that are no rows to train on, and what to make of them
_OTHER_LAYOUTS = {
    "answers": "a ranking of several answers a row; expected a pair a row. Write each better answer"
    " beside each worse one, as {prompt, chosen, rejected}",
    "completions": "several completions a row; expected a pair a row. Write a better one beside a"
    " worse one, as {prompt, chosen, rejected}",
    "message_tree_id": "a tree of messages; expected a dialogue a row. Write each path from its"
    " root as {messages}, and two replies to one message as {messages, chosen, rejected}",
    "preferred_output": "OpenAI's preference format; expected {messages, chosen, rejected}. Write"
    " input.messages as messages, and the two outputs as chosen and rejected",
}
_ANSWERS = {"response", "chosen", "rejected", "label"}
_VERDICTS = {"votes_for", "votes_against", "votes", "labels", "strength", "margin"}
# names of columns that say where a row comes from, and nothing that a model should read
_PROVENANCE = {
    "annotator",
    "annotators",
    "category",
    "created_at",
    "dataset",
    "date",
    "domain",
    "hash",
    "id",
    "index",
    "lang",
    "language",
    "license",
    "model",
    "source",
    "split",
    "subset",
    "task",
    "timestamp",
    "turn_identifier",
    "type",
    "url",
    "uuid",
}


def rename_columns(name: str, columns: list[str], mapping: dict[str, str]) -> dict[str, str]:
    """Return the name here of every column in the file.

    A column whose name a mapped one takes keeps its text as 'x_unmapped'.
    Raises BadInput if the mapping names a column that is not there or a canonical name that does
    not exist.
    """
    if unknown := sorted(set(mapping) - set(CANONICAL)):
        raise BadInput(
            f"{name}: columns maps {unknown}; expected canonical names, any of"
            f" {', '.join(CANONICAL)}."
        )
    if missing := sorted(set(mapping.values()) - set(columns)):
        raise BadInput(
            f"{name}: columns maps to {missing}, but the file has {columns}. Correct the recipe's"
            " columns."
        )
    canonical = {column: wanted for wanted, column in mapping.items()}
    taken = {*columns, *mapping}
    for alias, wanted in ALIASES.items():
        if alias in columns and alias not in canonical and wanted not in taken:
            canonical[alias] = wanted
            taken.add(wanted)
    return {c: canonical.get(c, f"{c}_unmapped" if c in mapping else c) for c in columns}


def detect_format(name: str, kind: RowKind, columns: list[str]) -> tuple[str, ...]:
    """Return the format of a source: its columns to read. Raises BadInput if no format fits."""
    other = next((name for name in _OTHER_LAYOUTS if name in columns), None)
    if {"parent_id", "role", "text"} <= set(columns):  # a message of a tree a row
        other = "message_tree_id"
    for format_ in FORMATS[kind]:
        if set(format_) <= set(columns) and other != "message_tree_id":
            return format_
    if other:
        found = other if other in columns else "parent_id"
        raise BadInput(f"{name}: the column {found!r} says {_OTHER_LAYOUTS[other]}.")
    if kind == "comparisons" and {"response", "label"} <= set(columns):
        raise BadInput(
            f"{name}: found one answer a row with a label, the columns {columns}; expected"
            " two answers to one prompt, {prompt, chosen, rejected}. Give the file as"
            " data.feedback, which KTO and the reward model learn from. As data.demonstrations the"
            " rows with label true are used."
        )
    expected = " or ".join("{" + ", ".join(format_) + "}" for format_ in FORMATS[kind])
    key = NEW_COMPARISONS if is_new(name) else name
    raise BadInput(
        f"{name}: found the columns {columns}; expected {expected}. "
        f'Say which column is which, e.g. data.{key} = {{path = "...", columns = {{prompt ='
        ' "question"}}.'
    )


def without_ignored(row: dict, ignored: Sequence[str]) -> dict:
    """Return a row without the ignored columns and without message keys of these names."""
    if not ignored:
        return row
    return {
        column: _without_keys(value, ignored)
        for column, value in row.items()
        if column not in ignored
    }


def _without_keys(value: object, ignored: Sequence[str]) -> object:
    if not isinstance(value, list):
        return value
    return [
        {key: part for key, part in item.items() if key not in ignored}
        if isinstance(item, dict)
        else item
        for item in value
    ]


def require_ignored(
    name: str, columns: Sequence[str], rows: Iterable[tuple[int, dict]], ignored: Sequence[str]
) -> None:
    """Raise BadInput for an ignored name that is neither a column nor a key of a message.

    rows: each with its line; they are read only if an ignored name is no column.
    """
    for wanted in ignored:
        if wanted not in columns and not any(
            isinstance(item, dict) and wanted in item
            for _, row in rows
            for value in row.values()
            if isinstance(value, list)
            for item in value
        ):
            raise BadInput(
                f"{name}: ignore names {wanted!r}, but the file has the columns {list(columns)} and"
                " no message has such a key. Correct the recipe's ignore."
            )


def unused_columns(kind: RowKind, format_: tuple[str, ...], row: dict, record: dict) -> list[str]:
    """Return the columns and 'column.key' of messages with a text that no stage will read.

    Left out: columns that the format reads, verdicts, provenance such as an id, numbers, and texts
    that the record holds already.
    """
    read = {*format_, *CONTEXT, *_VERDICTS, "tools", "functions"}
    if kind != "comparisons" or "response" not in row:
        read |= _ANSWERS
    texts = {message["content"].strip() for message in record["prompt"]}
    texts |= {record[a].strip() for a in ("response", "chosen", "rejected") if a in record}
    found = [
        column
        for column, value in row.items()
        if column not in read and not _is_provenance(column) and _says_more(value, texts)
    ]
    for column in format_:
        value = row[column]
        for item in value if isinstance(value, list) else []:
            for key, part in item.items() if isinstance(item, dict) else ():
                if key not in MESSAGE_KEYS and not _is_provenance(key) and _says_more(part, texts):
                    found.append(f"{column}.{key}")
    return sorted(set(found))


def _is_provenance(column: str) -> bool:
    return column.lower() in _PROVENANCE or bool(
        re.search(r"(_id|_hash|_unmapped)(_[a-z])?$", column.lower())
    )


def _says_more(value: object, texts: set[str]) -> bool:
    return any(text and text not in texts for text in _texts(value))


def _texts(value: object) -> Iterator[str]:
    """Yield every text in a nested value, the roles of messages left out."""
    if isinstance(value, str):
        yield value.strip()
    elif isinstance(value, dict):
        for key, part in value.items():
            if key not in ("role", "from"):
                yield from _texts(part)
    elif isinstance(value, list | tuple):
        for part in value:
            yield from _texts(part)
