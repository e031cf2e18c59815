"""Dialogues as lists of messages.

They are read from chat lists, ShareGPT lists and "Human: ... Assistant: ..." transcripts.
"""

import re
from typing import Any

Messages = list[dict[str, str]]
ROLES = {
    "system": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "human": "user",
    "gpt": "assistant",
}
_TURN = re.compile(r"(?:^|\n\n)(Human|Assistant):[ ]?")


class RejectedRow(Exception):
    """Raised for a row that is no record, with the rule that it breaks and the reason."""

    def __init__(self, rule: str, reason: str):
        super().__init__(reason)
        self.rule, self.reason = rule, reason


def require_text(value: object, column: str) -> str:
    """Return the value, a text that is not blank. Raises RejectedRow: 'empty_text' or 'schema'."""
    if value is None:
        raise RejectedRow("empty_text", f"{column} is null")
    if not isinstance(value, str):
        raise RejectedRow(
            "schema", f"{column} is {type(value).__name__} {value!r:.40}; expected text"
        )
    if not value.strip():
        raise RejectedRow("empty_text", f"{column} is empty")
    return value


def read_messages(value: object, column: str, *, open_end: bool = False) -> Messages:
    """Return the messages of a chat list or a transcript.

    open_end: it may end in "Assistant:" with nothing after it.
    Raises RejectedRow if a role is unknown, a text is empty or there is no message.
    """
    messages: list[dict[str, Any]]
    if isinstance(value, list):
        messages = _from_list(value, column)
    else:
        messages = _from_transcript(require_text(value, column), column)
    if open_end and messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages = messages[:-1]
    for number, message in enumerate(messages, start=1):
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
        messages.append({"role": ROLES[role], "content": content})
    return messages


def _from_transcript(text: str, column: str) -> list[dict[str, Any]]:
    pieces = _TURN.split(text.strip())
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
