"""Dialogues as lists of messages.

They are read from chat lists, ShareGPT lists, either of these as JSON or Python text, and
"Human: ... Assistant: ..." transcripts.
"""

import ast
import json
import re
from typing import Any

from rlhf_core.data.tool_use import TOOL_KEYS, Message, NotTools, parsed_calls

Messages = list[Message]
ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "model": "assistant",
    "developer": "system",  # OpenAI's name since 2024
    "prompter": "user",  # OpenAssistant
    "function_call": "assistant",  # ShareGPT, of a call alone
    "observation": "tool",
    "function": "tool",  # OpenAI's name before 2024
}
MESSAGE_KEYS = ("role", "content", "from", "value", "name", "function_call", *TOOL_KEYS)
_MESSAGE_KEYS = {"role", "content", "from", "value"}  # an object with one of them is a message
# keys of a message that say what the model is to read or learn, and that no stage passes on
_REFUSED_KEYS = (
    "tool_call_id",
    "reasoning_content",
    "reasoning",
    "thinking",
    "tools",
    "functions",
    "images",
    "audio",
    "name",
    "weight",
)
_OF_RESULTS = ("tool_call_id", "name")  # of the role tool: which call it answers
_TURN = re.compile(r"(?:^|\n\n|\r\n\r\n)(Human|Assistant):[ ]?")
# turns on lines of their own, without a blank line between them
_CLOSE_TURN = re.compile(r"(?:^|\r?\n)(Human|Assistant):[ ]?")
_BEGINS_AS_LIST = re.compile(r"""\s*\[\s*\{\s*['"](role|from|content|value)['"]\s*:""")


class _Missing:
    """The value of a column that a row does not have."""

    def __repr__(self) -> str:
        return "missing"


MISSING = _Missing()


class RejectedRow(Exception):
    """Raised for a row that is no record, with the rule that it breaks and the reason."""

    def __init__(self, rule: str, reason: str):
        super().__init__(reason)
        self.rule, self.reason = rule, reason


def require_text(value: object, column: str) -> str:
    """Return the value, a text that is not blank. Raises RejectedRow: 'empty_text' or 'schema'."""
    if value is MISSING:
        raise RejectedRow("empty_text", f"{column} is missing: the row has no such column")
    if value is None:
        raise RejectedRow("empty_text", f"{column} is null")
    if not isinstance(value, str):
        raise RejectedRow(
            "schema", f"{column} is {type(value).__name__} {value!r:.40}; expected text"
        )
    if not value.strip():
        raise RejectedRow("empty_text", f"{column} is empty")
    return value


def is_dialogue(text: str, *, first: str = "Human|Assistant") -> bool:
    """Return True if a text begins as a transcript or as a written list of messages.

    first: the roles that may open the transcript, '|' between them.
    """
    return bool(re.match(rf"\s*({first}):", text) or _BEGINS_AS_LIST.match(text))


def parsed_messages(text: str, column: str) -> list | None:
    """Return the list in a text that was written as JSON or as Python's repr.

    None if the text is no list of messages. Raises RejectedRow if it begins as one and is not
    complete.
    """
    if not text.lstrip().startswith("["):
        return None
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text.strip())
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            continue
        if isinstance(value, list):
            return value
    if _BEGINS_AS_LIST.match(text):
        raise RejectedRow(
            "schema",
            f"{column} is a list of messages as text, which is neither JSON nor Python:"
            f" {text[:40]!r}; expected JSON",
        )
    return None


def read_messages(value: object, column: str, *, open_end: bool = False) -> Messages:
    """Return the messages of a chat list, one message, either of them as text, or a transcript.

    open_end: it may end in "Assistant:" with nothing after it.
    Raises RejectedRow if a role is unknown, a text is empty or there is no message.
    """
    messages: list[dict[str, Any]]
    if isinstance(value, dict):
        if not _MESSAGE_KEYS & value.keys():
            raise RejectedRow(
                "schema",
                f"{column} is the object {value!r:.40}; expected text, or a message with role and"
                " content",
            )
        value = [value]
    if isinstance(value, str) and is_dialogue(value):
        value = parsed_messages(value, column) or value
    if isinstance(value, list):
        messages = _from_list(value, column)
    else:
        messages = _from_transcript(require_text(value, column), column)
    if open_end and messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages = messages[:-1]
    for number, message in enumerate(messages, start=1):
        if "tool_calls" not in message or message["content"]:
            require_text(message["content"], f"message {number} of {column}")
    if not messages:
        raise RejectedRow("empty_text", f"{column} holds no messages")
    return messages


def _from_list(value: list, column: str) -> list[dict[str, Any]]:
    """Return the messages of a list; their contents may still be of any type."""
    messages = []
    for number, item in enumerate(value, start=1):
        if not isinstance(item, dict):
            raise RejectedRow(
                "schema",
                f"message {number} of {column} is {type(item).__name__}; expected role and content",
            )
        role = item.get("role") or item.get("from")
        content = item.get("content") if item.get("content") is not None else item.get("value")
        if role not in ROLES:
            raise RejectedRow(
                "schema",
                f"message {number} of {column} has the role {role!r}; expected one of"
                f" {sorted(ROLES)}",
            )
        _refuse_unread(item, number, column)
        if role == "function_call":
            item, content = {"function_call": content}, None
        used = _tool_use(item, ROLES[role], f"message {number} of {column}")
        content = "" if content is None and used else _joined(content, number, column)
        messages.append({"role": ROLES[role], "content": content} | used)
    return messages


def _tool_use(item: dict, role: str, where: str) -> dict[str, Any]:
    """Return the keys of a message that say which tools it calls, or which call it answers.

    Raises RejectedRow for calls that are none, and for those of anyone but the assistant.
    """
    try:
        calls = parsed_calls(item)
    except NotTools as error:
        raise RejectedRow("schema", f"{where}: {error}") from None
    if calls and role != "assistant":
        raise RejectedRow("schema", f"{where} is a {role}'s and calls a tool")
    answers = {key: item[key] for key in _OF_RESULTS if role == "tool" and item.get(key)}
    return answers | ({"tool_calls": calls} if calls else {})


def _joined(content: object, number: int, column: str) -> object:
    """Return the text of a content that is given in parts. Raises RejectedRow for an image."""
    if not isinstance(content, list) or not all(isinstance(part, dict) for part in content):
        return content
    kinds = {str(part.get("type")) for part in content}
    if kinds != {"text"}:
        raise RejectedRow(
            "schema",
            f"message {number} of {column} has parts of type {' and '.join(sorted(kinds))}, which"
            " no stage passes to the model; expected text alone",
        )
    return "".join(require_text(part.get("text"), column) for part in content)


def _refuse_unread(item: dict, number: int, column: str) -> None:
    """Raise RejectedRow if a message holds what no stage would pass on."""
    named = ROLES.get(str(item.get("role") or item.get("from"))) == "tool"
    refused = [key for key in _REFUSED_KEYS if not (named and key in _OF_RESULTS)]
    key = next((key for key in refused if _says_something(key, item.get(key))), None)
    if key is not None:
        raise RejectedRow(
            "schema",
            f"message {number} of {column} has {key} {item[key]!r:.40}, which no stage passes to"
            f" the model; expected role and content alone (ignore = ['{key}'] leaves it out)",
        )


def _says_something(key: str, value: object) -> bool:
    """Return True for a value that is not empty; a weight of 1 is the same as none."""
    return value not in (None, 1) if key == "weight" else bool(value)


def _from_transcript(text: str, column: str) -> list[dict[str, Any]]:
    pieces, close = (turn.split(text.strip()) for turn in (_TURN, _CLOSE_TURN))
    if "Assistant" not in pieces[1::2] and "Assistant" in close[1::2]:
        pieces = close
    if len(pieces) == 1 or pieces[0].strip():
        raise RejectedRow(
            "schema",
            f"{column} is text without a prompt; expected messages or 'Human: ... Assistant: ...'",
        )
    roles = [{"Human": "user", "Assistant": "assistant"}[role] for role in pieces[1::2]]
    return [
        {"role": r, "content": text.strip()} for r, text in zip(roles, pieces[2::2], strict=True)
    ]


def split_last_answer(messages: Messages, column: str) -> tuple[Messages, str]:
    """Return (prompt, answer): the last message answers those before it.

    Raises RejectedRow if the last message is not the assistant's answer to a question.
    """
    if messages[-1]["role"] != "assistant":
        raise RejectedRow(
            "schema",
            f"{column} ends with a {messages[-1]['role']}'s message; expected the assistant's",
        )
    if "tool_calls" in messages[-1]:
        raise RejectedRow(
            "schema",
            f"{column} ends with a call of a tool; expected an answer in text, because calls are"
            " read and not trained",
        )
    if len(messages) < 2 or messages[-2]["role"] == "assistant":
        raise RejectedRow("schema", f"{column} has no question before the assistant's last message")
    return messages[:-1], messages[-1]["content"]


def split_shared_prompt(chosen: Messages, rejected: Messages) -> tuple[Messages, str, str]:
    """Return (prompt, chosen answer, rejected answer) of two dialogues with the same beginning.

    Raises RejectedRow if they differ before their last message.
    """
    prompt, answer = split_last_answer(chosen, "chosen")
    other, other_answer = split_last_answer(rejected, "rejected")
    if prompt != other:
        common = next(
            (n for n, (a, b) in enumerate(zip(prompt, other, strict=False)) if a != b),
            min(len(prompt), len(other)),
        )
        raise RejectedRow(
            "schema",
            f"chosen and rejected part after {common} messages; expected the same prompt in both",
        )
    return prompt, answer, other_answer
