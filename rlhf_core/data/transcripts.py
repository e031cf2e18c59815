"""Dialogues as lists of messages: chat lists, ShareGPT lists, and "Human: ... Assistant: ..."
transcripts.
"""

import re

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
    """Why a row is not a record: the rule it breaks and the reason in words."""

    def __init__(self, rule: str, reason: str):
        super().__init__(reason)
        self.rule, self.reason = rule, reason


def require_text(value: object, column: str) -> str:
    """The value, a text with something in it. Raises Reject('empty_text') or Reject('schema')."""
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
    """Messages from a chat list or a transcript; `open_end`: it may end in "Assistant:" with
    nothing after it.

    Raises Reject when a role is unknown, a text is empty or there is no user's message.
    """
    messages = (
        _from_list(value, column)
        if isinstance(value, list)
        else _from_transcript(require_text(value, column), column)
    )
    if open_end and messages and messages[-1] == {"role": "assistant", "content": ""}:
        messages = messages[:-1]
    for number, message in enumerate(messages, start=1):
        require_text(message["content"], f"message {number} of {column}")
    if not messages:
        raise RejectedRow("empty_text", f"{column} holds no messages")
    return messages


def _from_list(value: list, column: str) -> Messages:
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


def _from_transcript(text: str, column: str) -> Messages:
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
    """(prompt, answer): the last message is the assistant's answer to those before. Raises Reject
    otherwise.
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
    """(prompt, chosen answer, rejected answer): the prompt is the common beginning of both
    dialogues.

    Raises Reject when they part earlier than at their last message.
    """
    (prompt, answer), (other, other_answer) = (
        split_last_answer(chosen, "chosen"),
        split_last_answer(rejected, "rejected"),
    )
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
