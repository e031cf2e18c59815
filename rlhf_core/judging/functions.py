"""Scorers and judges that are functions: their call, and the check of their answers.

A failed scorer is not a score of 0. Whatever such a function does wrong is an error that names it.
"""

import inspect
import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from rlhf_core.data.tool_use import written
from rlhf_core.data.transcripts import Messages
from rlhf_core.errors import BadInput, RLHFError

Scorer = Callable[..., list[float]]
"""(prompts, replies) -> scores; prompts: the text of each whole conversation"""
JudgeFunction = Callable[[list[str], list[str], list[str]], list[float | None]]
"""(prompts, replies_a, replies_b) -> 1 a is better, 0.5 tie, 0 b is better, None unreadable"""
MESSAGES = "messages"  # the parameter by which a function asks for the messages themselves


def conversation(messages: Messages) -> str:
    """Return the text of a prompt that scorers, judges and reward functions read.

    This is the text of a single message, or 'role: text' paragraphs of several.
    """
    if len(messages) == 1:
        return messages[0]["content"]
    return "\n\n".join(f"{message['role']}: {written(message)}" for message in messages)


def with_messages(function: Callable, prompts: list[Messages], *, lists: int) -> Callable:
    """Return the function with `messages` set to the prompts, if it has such a parameter.

    lists: number of lists that it gets by position. A parameter among these is no such parameter,
    whatever its name.
    """
    try:
        names = list(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # a function of C has no signature to read
        names = []
    return partial(function, **{MESSAGES: prompts}) if MESSAGES in names[lists:] else function


def call(function: Callable, role: str, *texts: list[str]) -> list[float]:
    """Return function(*texts) as finite floats, one per text.

    Raises BadInput when the function raises, or gives anything else.
    """
    return [
        _finite(value, role, f"reply {i}")
        for i, value in enumerate(answers(function, role, *texts))
    ]


def call_per_token(function: Callable, role: str, *texts: list) -> list[list[float]]:
    """Return function(*texts) as finite floats, one per token of each reply.

    `texts` ends with the replies' tokens, one list per reply. Raises BadInput when the function
    raises, or gives anything else.
    """
    rows = zip(answers(function, role, *texts), texts[-1], strict=True)
    return [_token_values(values, len(tokens), role, i) for i, (values, tokens) in enumerate(rows)]


def _token_values(values: Any, count: int, role: str, reply: int) -> list[float]:
    if not isinstance(values, Iterable) or len(values := list(values)) != count:
        is_list = isinstance(values, list)
        gave = f"{len(values)} values" if is_list else f"a {type(values).__name__}"
        raise BadInput(
            f"the {role} gave {gave} for the {count} tokens of reply {reply}; expected one each"
        )
    return [_finite(value, role, f"token {t} of reply {reply}") for t, value in enumerate(values)]


def answers(function: Callable, role: str, *texts: list) -> list:
    """Return function(*texts) as a list of as many values as there are texts.

    Raises BadInput when the function raises, or gives another number of values.
    """
    try:
        values = list(function(*texts))
    except RLHFError:
        raise
    except Exception as error:
        raise BadInput(
            f"the {role} failed with {type(error).__name__}: {error}. A failure is not a score;"
            " correct the function."
        ) from error
    if len(values) != len(texts[0]):
        raise BadInput(
            f"the {role} gave {len(values)} values for {len(texts[0])} replies; expected one each"
        )
    return values


def _finite(value: Any, role: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise BadInput(f"the {role} gave {value!r:.80} for {where}; expected a finite number")
    return number
