"""Turn one row of any common format into a canonical record, or say why not. Pure functions.

demonstration  {"id", "prompt": messages, "response", "meta"}
feedback       {"id", "prompt": messages, "response", "label": true or false, "meta"}
comparison     {"id", "prompt": messages, "chosen", "rejected", "votes_for", "votes_against",
               "meta"}, and "strength" if a column strength or margin holds a number of 0 or more
prompt         {"id", "prompt": messages, "meta"}

`messages` is a list of {"role", "content"}. "id" is the first 16 hex digits of the digest of the
texts. "meta" holds every other column. The columns system, history and input become part of the
prompt, and tools go to the chat template with it. Other arguments of the template and media are
refused, because no stage gives them to the model.
"""

import math

from rlhf_core.data.columns import SHP, RowKind
from rlhf_core.data.tool_use import NotTools, parsed_tools, with_tools
from rlhf_core.data.transcripts import (
    Messages,
    RejectedRow,
    is_dialogue,
    parsed_messages,
    read_messages,
    require_text,
    split_last_answer,
    split_shared_prompt,
)
from rlhf_core.data.verdicts import named_votes, strength, thumb, verdict, votes
from rlhf_core.digest import digest_json

_EMPTY = {"", "[]", "{}", "null", "none"}
_IDENTITY = ("prompt", "response", "chosen", "rejected", "label")  # keys of a record
# columns that bear on the prompt by another way than its text: no stage passes them on
_TO_TEMPLATE = ("chat_template_kwargs",)
_MEDIA = ("images", "image", "audios", "audio", "videos", "video")


def normalise(kind: RowKind, format_: tuple[str, ...], row: dict) -> dict:
    """Return the canonical record of a row that has canonical column names.

    Raises RejectedRow with the rule and the reason.
    """
    _refuse_unread(row)
    if format_ == SHP:
        format_, row = ("prompt", "chosen", "rejected"), _pair_of_shp(row)
    record = _MAKE[kind](format_, _with_input(format_, row))
    record["prompt"] = with_tools(_with_context(record["prompt"], row), _tools(row))
    read = set(format_) | {"votes_for", "votes_against"} if kind == "comparisons" else set(format_)
    meta = {
        key: as_json_value(value)
        for key, value in row.items()
        if key not in read and value is not None
    }
    return {"id": record_id(record), **record, "meta": meta}


def record_id(record: dict) -> str:
    """Return the first 16 hex digits of the digest of a canonical record's texts and label."""
    content = [record[key] for key in _IDENTITY if key in record]
    return digest_json(content)[:16]


def _demonstration(format_: tuple[str, ...], row: dict) -> dict:
    if verdict(row) is False:
        label = str(row["label"]).strip().lower()
        ways = "expected a good one to be imitated, or ignore = ['label']"
        raise RejectedRow("schema", f"label is {label} (KTO): a bad answer; {ways}")
    return _answered(format_, row)


def _answered(format_: tuple[str, ...], row: dict) -> dict:
    """Return prompt and response, from two columns or from a dialogue that ends with an answer."""
    if format_[0] == "prompt":
        prompt, answer = _with_prompt(row["prompt"], row[format_[1]], format_[1])
        return {"prompt": prompt, "response": answer}
    prompt, answer = split_last_answer(read_messages(row[format_[0]], format_[0]), format_[0])
    return {"prompt": prompt, "response": answer}


def _feedback(format_: tuple[str, ...], row: dict) -> dict:
    return _answered(format_, row) | {"label": thumb(row["label"])}


def _comparison(format_: tuple[str, ...], row: dict) -> dict:
    if _is_answer_to_question(format_, row):
        format_, row = ("prompt", *format_), row | {"prompt": row["question"]}
    if format_[0] == "messages" and _ends_with_answer(row["messages"]):
        format_ = ("chosen", "rejected")  # one of the two dialogues once more
    if format_[0] in ("prompt", "messages"):
        prompt, chosen = _with_prompt(row[format_[0]], row["chosen"], "chosen")
        other, rejected = _with_prompt(row[format_[0]], row["rejected"], "rejected")
        if prompt != other:
            raise RejectedRow("schema", "chosen and rejected answer different prompts")
    else:
        pair = [read_messages(row[column], column) for column in ("chosen", "rejected")]
        prompt, chosen, rejected = split_shared_prompt(*pair)
    votes_for, votes_against = votes(row)
    named_votes(row)  # refuses names that do not fit the votes
    better = strength(row)
    return {
        "prompt": prompt,
        "chosen": chosen,
        "rejected": rejected,
        "votes_for": votes_for,
        "votes_against": votes_against,
    } | ({} if better is None else {"strength": better})


def _is_answer_to_question(format_: tuple[str, ...], row: dict) -> bool:
    """Return True if chosen is no dialogue and a column question has its prompt."""
    chosen = row.get("chosen")
    is_plain = isinstance(chosen, str) and not is_dialogue(chosen)
    return format_ == ("chosen", "rejected") and is_plain and not _is_blank(row.get("question"))


def _pair_of_shp(row: dict) -> dict:
    """Return the row with its post as prompt and its two answers as chosen and rejected.

    Raises RejectedRow for labels that are neither 0 nor 1.
    """
    better = {"1": "A", "0": "B"}.get(str(row["labels"]))
    if better is None:
        raise RejectedRow(
            "schema",
            f"labels is {row['labels']!r:.40}; expected 1 (human_ref_A is the better answer) or 0",
        )
    worse = "B" if better == "A" else "A"
    answers = {"chosen": row[f"human_ref_{better}"], "rejected": row[f"human_ref_{worse}"]}
    rest = {key: value for key, value in row.items() if key not in SHP}
    return rest | {"prompt": row["history"]} | answers


def _ends_with_answer(value: object) -> bool:
    return read_messages(value, "messages", open_end=True)[-1]["role"] == "assistant"


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


_MAKE = {
    "demonstrations": _demonstration,
    "comparisons": _comparison,
    "feedback": _feedback,
    "prompts": _prompt,
}


def _tools(row: dict) -> list[dict]:
    """Return the tools of a row. Raises RejectedRow for a column that holds something else."""
    try:
        return parsed_tools(row.get("tools")) or parsed_tools(row.get("functions"))
    except NotTools as error:
        raise RejectedRow("schema", str(error)) from None


def _refuse_unread(row: dict) -> None:
    """Raise RejectedRow for what bears on the prompt and no stage would pass on."""
    for column in (*_TO_TEMPLATE, *_MEDIA):
        value = row.get(column)
        if isinstance(value, str):
            value = value.strip().lower() not in _EMPTY
        if value is None or isinstance(value, float) or not value:
            continue
        to = "the chat template" if column in _TO_TEMPLATE else "the model"
        raise RejectedRow(
            "schema",
            f"{column} are given, which no stage passes to {to}; expected rows without"
            f" {column} (ignore = [{column!r}] trains on such rows without them)",
        )


def _with_input(format_: tuple[str, ...], row: dict) -> dict:
    """Return the row with Alpaca's input on a new line below the prompt, as LLaMA-Factory has it.

    Raises RejectedRow if there is an input and no plain prompt.
    """
    value = row.get("input")
    if _is_blank(value):
        return row
    text, prompt = require_text(value, "input"), row.get("prompt")
    if format_[0] != "prompt" or not isinstance(prompt, str) or is_dialogue(prompt):
        raise RejectedRow(
            "schema",
            "input stands beside a dialogue; expected it beside a prompt of plain text (ignore ="
            " ['input'] leaves it out)",
        )
    return row | {"prompt": f"{prompt}\n{text}"}


def _with_context(prompt: Messages, row: dict) -> Messages:
    """Return the prompt after the row's system message and history.

    What the prompt begins with already is not repeated. Raises RejectedRow for two different
    system messages, and for a history that is none.
    """
    history = _history(row.get("history"))
    if history and prompt[: len(history)] != history:
        at = 1 if prompt[0]["role"] == "system" else 0
        if prompt[at : at + len(history)] != history:
            prompt = [*prompt[:at], *history, *prompt[at:]]
    if _is_blank(row.get("system")):
        return prompt
    system = {"role": "system", "content": require_text(row["system"], "system")}
    if prompt[0] == system:
        return prompt
    if prompt[0]["role"] == "system":
        raise RejectedRow(
            "schema",
            f"system is {system['content']!r:.40}, but the dialogue begins with the system message"
            f" {prompt[0]['content']!r:.40}; expected one of the two",
        )
    return [system, *prompt]


def _history(value: object) -> Messages:
    """Return the messages of a history: pairs of question and answer, or a dialogue."""
    if isinstance(value, str) and (parsed := parsed_messages(value, "history")) is not None:
        value = parsed
    if _is_blank(value):
        return []
    pairs = value if isinstance(value, list) else []
    if pairs and all(isinstance(pair, list | tuple) and len(pair) == 2 for pair in pairs):
        return [
            {"role": role, "content": require_text(text, "history")}
            for pair in pairs
            for role, text in zip(("user", "assistant"), pair, strict=True)
        ]
    messages = read_messages(value, "history")
    if messages[-1]["role"] != "assistant":
        raise RejectedRow("schema", "history ends without an answer; expected the assistant's")
    return messages


def _is_blank(value: object) -> bool:
    return (
        value is None
        or value == []
        or (isinstance(value, str) and not value.strip())
        or (isinstance(value, float) and math.isnan(value))
    )


def _asked(value: object) -> Messages:
    """Return the messages of a prompt column.

    Plain text is one user message. A transcript may end in an open 'Assistant:'.
    """
    if isinstance(value, list | dict) or (
        isinstance(value, str) and is_dialogue(value, first="Human")
    ):
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
    if not isinstance(answer, list | dict):
        text = require_text(answer, column)
        if not is_dialogue(text):
            return asked, text
    messages = read_messages(answer, column)
    if len(messages) == 1 and messages[0]["role"] == "assistant":
        return asked, messages[0]["content"]
    before, text = split_last_answer(messages, column)
    if before != asked and before[-len(asked) :] != asked:
        raise RejectedRow("schema", f"{column} holds a dialogue that does not continue the prompt")
    return before, text


def as_json_value(value: object) -> object:
    """Return `value` as JSON can hold it: NaN and infinities are null, dates and bytes text."""
    if isinstance(value, dict):
        return {str(key): as_json_value(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_json_value(item) for item in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)
