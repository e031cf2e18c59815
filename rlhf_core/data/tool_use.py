"""Tools and tool calls in dialogues, in the form that chat templates take.

tools: on the first message of a prompt, a list of {"type": "function", "function": {"name",
"description", "parameters"}}. tool_calls: on a message of the assistant, a list of {"type":
"function", "function": {"name", "arguments"}, "id"}. A message of the role tool has the result, and
"tool_call_id" or "name" where the data have it.
"""

import json
from typing import Any

Message = dict[str, Any]
TOOL_KEYS = ("tools", "tool_calls", "tool_call_id")
_EMPTY = {"", "[]", "{}", "null", "none"}


class NotTools(ValueError):
    """Raised for a value that is no list of tools or of tool calls; the text says why."""


def parsed_tools(value: object) -> list[dict[str, Any]]:
    """Return the tools in a column: a list, or one as JSON text; functions of OpenAI's old format.

    A key without a value counts as absent, because Parquet writes such keys.
    Raises NotTools for anything else.
    """
    value = _from_text(value, "tools")
    if not value:
        return []
    if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
        raise NotTools(f"tools are {value!r:.60}; expected a list of objects")
    tools: list[dict[str, Any]] = [without_nulls(item) for item in value]
    for tool in tools:
        function = tool.get("function", tool)
        if not isinstance(function, dict) or not isinstance(function.get("name"), str):
            raise NotTools(f"a tool is {tool!r:.60}; expected an object with a name")
    return [t if "function" in t else {"type": "function", "function": t} for t in tools]


def parsed_calls(message: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the tool calls of a message, empty without one.

    Arguments that are JSON text become an object, as templates expect. Raises NotTools.
    """
    calls = _from_text(message.get("tool_calls"), "tool_calls")
    if not calls and (call := _from_text(message.get("function_call"), "function_call")):
        calls = [call]
    if not calls:
        return []
    if not isinstance(calls, list):
        raise NotTools(f"tool_calls are {calls!r:.60}; expected a list")
    return [_call(call) for call in calls]


def _call(call: object) -> dict[str, Any]:
    if not isinstance(call, dict):
        raise NotTools(f"a tool call is {call!r:.60}; expected an object")
    function = call.get("function", call)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise NotTools(f"a tool call is {call!r:.60}; expected the name of a function")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        try:
            parsed = json.loads(arguments)
        except ValueError:
            parsed = None
        arguments = parsed if isinstance(parsed, dict) else arguments
    made = {"name": function["name"], "arguments": without_nulls(arguments or {})}
    number = {"id": call["id"]} if isinstance(call.get("id"), str) else {}
    return {"type": "function", "function": made} | number


def _from_text(value: object, name: str) -> Any:
    """Return a value, or what its JSON text says; None for a missing one."""
    if not isinstance(value, str):
        return None if value is None or isinstance(value, float) else value
    if value.strip().lower() in _EMPTY:
        return None
    try:
        return json.loads(value)
    except ValueError:
        raise NotTools(f"{name} is the text {value!r:.60}; expected JSON") from None


def without_nulls(value: Any) -> Any:
    """Return a nested value without the keys that have no value."""
    if isinstance(value, dict):
        return {key: without_nulls(part) for key, part in value.items() if part is not None}
    return [without_nulls(part) for part in value] if isinstance(value, list | tuple) else value


def with_tools(messages: list[Message], tools: list[dict[str, Any]]) -> list[Message]:
    """Return messages that offer these tools."""
    if not tools or not messages:
        return messages
    return [messages[0] | {"tools": tools}, *messages[1:]]


def split_tools(messages: list[Message]) -> tuple[list[Message], list[dict[str, Any]] | None]:
    """Return the messages as a template takes them, and their tools; None without any."""
    if not messages or "tools" not in messages[0]:
        return messages, None
    first = {key: value for key, value in messages[0].items() if key != "tools"}
    return [first, *messages[1:]], messages[0]["tools"]


def beside_text(message: Message) -> Message:
    """Return what a message has besides role and content."""
    return {key: value for key, value in message.items() if key not in ("role", "content")}


def written(message: Message) -> str:
    """Return the text of a message for a reader without a template, its tool calls as JSON."""
    called: list[dict[str, Any]] = message.get("tool_calls", [])
    calls = [json.dumps(call["function"], ensure_ascii=False) for call in called]
    return "\n".join([*([message["content"]] if message["content"] or not calls else []), *calls])
