"""The bodies of OpenAI's chat API as a reply log keeps them: what is needed, and redacted."""

import json
from collections.abc import Callable
from typing import Any

Redact = Callable[[str], str]
# of a request; what names a user, and what may hold further text, is left out
SETTINGS_KEPT = ("temperature", "top_p", "max_tokens", "max_completion_tokens", "seed")


def read_request(body: bytes, redact: Redact | None) -> dict[str, Any]:
    """Return messages and sampling settings of a request.

    Raises ValueError, TypeError or KeyError for another body, and what `redact` raises.
    """
    found = json.loads(body)
    messages = [
        {"role": message["role"], "content": _text(message.get("content"), redact)}
        for message in found["messages"]
    ]
    return {"messages": messages} | {key: found[key] for key in SETTINGS_KEPT if key in found}


def read_reply(body: bytes, redact: Redact | None) -> dict[str, Any]:
    """Return id, model, content, finish_reason and usage of a reply, whole or as a stream.

    The first choice counts. Raises as read_request does, and for a stream that was cut off.
    """
    found = _joined(body) if body.startswith((b"data:", b":")) else json.loads(body)
    choice = found["choices"][0]
    return {
        "id": found["id"],
        "model": found["model"],
        "content": _text(choice["message"].get("content"), redact),
        "finish_reason": choice["finish_reason"],
        "usage": found.get("usage"),
    }


def _joined(body: bytes) -> dict[str, Any]:
    """Return the answer whose parts a stream holds. Raises ValueError when its end is missing."""
    lines = body.decode("utf-8").split("\n")  # splitlines would also split a text at U+2028
    parts = [line.removeprefix("data:").strip() for line in lines if line.startswith("data:")]
    if not parts or parts[-1] != "[DONE]":
        raise ValueError("the stream was cut off")
    text, reason = "", None
    answer: dict[str, Any] = {}
    for part in map(json.loads, parts[:-1]):
        answer = answer | {key: part[key] for key in ("id", "model", "usage") if part.get(key)}
        for choice in part.get("choices", []):
            if choice.get("index", 0) == 0:
                text += (choice.get("delta") or {}).get("content") or ""
                reason = choice.get("finish_reason") or reason
    return answer | {"choices": [{"message": {"content": text}, "finish_reason": reason}]}


def _text(content: Any, redact: Redact | None) -> str:
    """Return the text of a message; parts that are no text, as images, are left out."""
    if isinstance(content, list):
        content = "\n".join(part["text"] for part in content if part.get("type") == "text")
    text = content or ""
    if redact is None:
        return text
    redacted = redact(text)
    if not isinstance(redacted, str):
        raise TypeError(f"the redaction hook returned {type(redacted).__name__}, expected str")
    return redacted
