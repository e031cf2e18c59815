"""Functions that the recipe names as 'module:function': found, called, and held to what they
promise.

A crashed scorer is not a score of 0: whatever it does wrong is an error that names it.
"""

import importlib
import math
from collections.abc import Callable, Iterable

from rlhf_core.errors import BadInput, RLHFError

Scorer = Callable[[list[str], list[str]], list[float]]
"""(prompts, replies) -> scores"""
JudgeFunction = Callable[[list[str], list[str], list[str]], list[float | None]]
"""A judge: (prompts, replies_a, replies_b) -> 1 (a is better), 0.5 (tie), 0 (b is better), None (answer unreadable)."""


def load_function(name: str, role: str) -> Callable:
    """The function behind 'module:function'; `role` says what it is for. Raises BadInput when there
    is none.
    """
    module, _, attribute = name.partition(":")
    try:
        function = getattr(importlib.import_module(module), attribute)
    except Exception as error:  # a module may raise anything while it is imported
        raise BadInput(
            f"the {role} {name!r} cannot be imported ({error}); expected 'module:function'"
        ) from None
    if not callable(function):
        raise BadInput(f"the {role} {name!r} is a {type(function).__name__}; expected a function")
    return function


def call(function: Callable, role: str, *texts: list[str]) -> list[float]:
    """function(*texts) as finite floats, one a text. Raises BadInput when it raises, or gives
    anything else.
    """
    return [
        _finite(value, role, f"reply {i}")
        for i, value in enumerate(_answers(function, role, *texts))
    ]


def call_per_token(function: Callable, role: str, *texts: list) -> list[list[float]]:
    """function(*texts) as finite floats, one a token of each reply; `texts` ends with the replies'
    tokens, a list each.

    Raises BadInput when it raises, or gives anything else.
    """
    found = []
    for i, (values, tokens) in enumerate(
        zip(_answers(function, role, *texts), texts[-1], strict=True)
    ):
        if not isinstance(values, Iterable) or len(values := list(values)) != len(tokens):
            gave = (
                f"{len(values)} values"
                if isinstance(values, list)
                else f"a {type(values).__name__}"
            )
            raise BadInput(
                f"the {role} gave {gave} for the {len(tokens)} tokens of reply {i}; expected one"
                " each"
            )
        found.append(
            [_finite(value, role, f"token {t} of reply {i}") for t, value in enumerate(values)]
        )
    return found


def _answers(function: Callable, role: str, *texts: list) -> list:
    try:
        values = list(function(*texts))
    except RLHFError:
        raise
    except Exception as error:
        raise BadInput(
            f"the {role} failed with {type(error).__name__}: {error}. A failure is not a score;"
            " mend it."
        ) from error
    if len(values) != len(texts[0]):
        raise BadInput(
            f"the {role} gave {len(values)} values for {len(texts[0])} replies; expected one each"
        )
    return values


def _finite(value: object, role: str, where: str) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, str) or not math.isfinite(number):
        raise BadInput(f"the {role} gave {value!r:.80} for {where}; expected a finite number")
    return number
