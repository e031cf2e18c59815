"""Turn one row of any common format into a canonical record, or say why not. Pure functions.

demonstration  {"id", "prompt": messages, "response", "meta"}
comparison     {"id", "prompt": messages, "chosen", "rejected", "votes_for", "votes_against",
               "meta"}, and "strength" if a column strength or margin holds a number of 0 or more
prompt         {"id", "prompt": messages, "meta"}

`messages` is a list of {"role", "content"}. "id" is the first 16 hex digits of the digest of the
texts. "meta" holds every other column.
"""

import math
from typing import Literal, SupportsFloat

from rlhf_core.data.transcripts import (
    Messages,
    RejectedRow,
    read_messages,
    require_text,
    split_last_answer,
    split_shared_prompt,
)
from rlhf_core.digest import digest_json
from rlhf_core.errors import BadInput

RowKind = Literal["demonstrations", "comparisons", "prompts"]
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
)
# columns by which a format is recognised; the first format whose columns are all there counts
FORMATS: dict[RowKind, tuple[tuple[str, ...], ...]] = {
    "demonstrations": (
        ("prompt", "response"),
        ("messages",),
        ("prompt", "chosen"),
        ("chosen",),
        ("text",),
    ),
    "comparisons": (("prompt", "chosen", "rejected"), ("chosen", "rejected")),
    "prompts": (("prompt",), ("messages",), ("chosen", "rejected"), ("text",)),
}
_CHOSEN = {1: 1, 0: 0, "chosen": 1, "rejected": 0, "1": 1, "0": 0}


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
    return {c: canonical.get(c, f"{c}_unmapped" if c in mapping else c) for c in columns}


def detect_format(name: str, kind: RowKind, columns: list[str]) -> tuple[str, ...]:
    """Return the format of a source: its columns to read. Raises BadInput if no format fits."""
    for format_ in FORMATS[kind]:
        if set(format_) <= set(columns):
            return format_
    expected = " or ".join("{" + ", ".join(format_) + "}" for format_ in FORMATS[kind])
    raise BadInput(
        f"{name}: found the columns {columns}; expected {expected}. "
        f'Say which column is which, e.g. data.{name} = {{path = "...", columns = {{prompt ='
        ' "question"}}.'
    )


def normalise(kind: RowKind, format_: tuple[str, ...], row: dict) -> dict:
    """Return the canonical record of a row that has canonical column names.

    Raises RejectedRow with the rule and the reason.
    """
    record = {"demonstrations": _demonstration, "comparisons": _comparison, "prompts": _prompt}[
        kind
    ](format_, row)
    content = [record[key] for key in ("prompt", "response", "chosen", "rejected") if key in record]
    read = set(format_) | {"votes_for", "votes_against"} if kind == "comparisons" else set(format_)
    meta = {
        key: as_json_value(value)
        for key, value in row.items()
        if key not in read and value is not None
    }
    return {"id": digest_json(content)[:16], **record, "meta": meta}


def _demonstration(format_: tuple[str, ...], row: dict) -> dict:
    if format_[0] == "prompt":
        prompt, answer = _with_prompt(row["prompt"], row[format_[1]], format_[1])
        return {"prompt": prompt, "response": answer}
    prompt, answer = split_last_answer(read_messages(row[format_[0]], format_[0]), format_[0])
    return {"prompt": prompt, "response": answer}


def _comparison(format_: tuple[str, ...], row: dict) -> dict:
    if format_[0] == "prompt":
        prompt, chosen = _with_prompt(row["prompt"], row["chosen"], "chosen")
        other, rejected = _with_prompt(row["prompt"], row["rejected"], "rejected")
        if prompt != other:
            raise RejectedRow("schema", "chosen and rejected answer different prompts")
    else:
        pair = [read_messages(row[column], column) for column in ("chosen", "rejected")]
        prompt, chosen, rejected = split_shared_prompt(*pair)
    votes_for, votes_against = _votes(row)
    strength = _strength(row)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "votes_for": votes_for,
        "votes_against": votes_against,
    } | ({} if strength is None else {"strength": strength})


def _prompt(format_: tuple[str, ...], row: dict) -> dict:
    if format_ == ("prompt",):
        return {"prompt": _asked(row["prompt"])}
    if format_ == ("chosen", "rejected"):
        return {"prompt": _comparison(format_, row)["prompt"]}
    messages = read_messages(row[format_[0]], format_[0])
    return {
        "prompt": (
            split_last_answer(messages, format_[0])[0]
            if messages[-1]["role"] == "assistant"
            else messages
        )
    }


def _asked(value: object) -> Messages:
    """Return the messages of a prompt column.

    Plain text is one user message. A transcript may end in an open 'Assistant:'.
    """
    if isinstance(value, list) or (isinstance(value, str) and value.lstrip().startswith("Human:")):
        messages = read_messages(value, "prompt", open_end=True)
        if messages[-1]["role"] == "assistant":
            raise RejectedRow(
                "schema", "the prompt ends with an assistant's message; expected a user's"
            )
        return messages
    return [{"role": "user", "content": require_text(value, "prompt")}]


def _with_prompt(prompt: object, answer: object, column: str) -> tuple[Messages, str]:
    """Return prompt and answer.

    The answer is text, one assistant message, or the whole dialogue again.
    """
    asked = _asked(prompt)
    if not isinstance(answer, list):
        text = require_text(answer, column)
        if not text.startswith("\n\nHuman:"):
            return asked, text
    messages = read_messages(answer, column)
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        return asked, messages[0]["content"]
    before, text = split_last_answer(messages, column)
    if before != asked and before[-len(asked) :] != asked:
        raise RejectedRow("schema", f"{column} holds a dialogue that does not continue the prompt")
    return before, text


def _votes(row: dict) -> tuple[int | None, int | None]:
    for column in ("votes", "labels"):
        if isinstance(values := row.get(column), list) and values:
            try:
                chosen = sum(_CHOSEN[value] for value in values)
            except (KeyError, TypeError):
                raise RejectedRow(
                    "schema",
                    f"{column} is {values!r:.60}; expected a list of 0/1 or chosen/rejected",
                ) from None
            return chosen, len(values) - chosen
    votes = [_count(row.get(column), column) for column in ("votes_for", "votes_against")]
    if (votes[0] is None) != (votes[1] is None):
        raise RejectedRow(
            "schema", f"votes_for is {votes[0]}, votes_against {votes[1]}; expected both or neither"
        )
    return votes[0], votes[1]


def _strength(row: dict) -> float | None:
    """Return by how much the chosen answer is better, in the annotators' own unit.

    Anything but a number of 0 or more counts as unknown: None.
    """
    for column in ("strength", "margin"):
        number = _number(row.get(column))
        if number is not None and math.isfinite(number) and number >= 0:
            return number
    return None


def _count(value: object, column: str) -> int | None:
    if value is None or value == "" or (isinstance(value, float) and math.isnan(value)):
        return None
    number = _number(value)
    if number is None or not number.is_integer() or number < 0:
        raise RejectedRow(
            "schema", f"{column} is {value!r:.40}; expected a whole number, 0 or more"
        )
    return int(number)


def _number(value: object) -> float | None:
    """Return the number in a value of JSON, CSV or Arrow; None for booleans and anything else."""
    if isinstance(value, bool) or not isinstance(value, str | bytes | SupportsFloat):
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        return None


def annotator_agreement(record: dict) -> float | None:
    """Return the share of a pair's votes that agree with the majority; None without votes."""
    votes = [record.get("votes_for") or 0, record.get("votes_against") or 0]
    return max(votes) / sum(votes) if sum(votes) else None


def as_json_value(value: object) -> object:
    """Return `value` as JSON can hold it: NaN and infinities are null, dates and bytes text."""
    if isinstance(value, dict):
        return {str(key): as_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
