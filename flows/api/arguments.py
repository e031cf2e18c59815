"""Check what Python callers pass, as the command line checks its words."""

from collections.abc import Collection, Mapping
from typing import Any

from rlhf_core.errors import BadInput


def require_text(name: str, value: object) -> None:
    """Raise BadInput for a reference that is no text."""
    if not isinstance(value, str):
        raise BadInput(f"{name} is {value!r}; expected a text.")


def require_known(options: Mapping[str, object], typed: Any) -> None:
    """Raise BadInput for an option that the TypedDict `typed` does not have."""
    known = sorted(typed.__annotations__)
    if unknown := sorted(set(options) - set(known)):
        raise BadInput(f"there is no option {unknown[0]!r}; expected one of {', '.join(known)}.")


def require_choice(name: str, value: object, choices: Collection[str]) -> None:
    """Raise BadInput for a value that is none of the choices."""
    if value not in choices:
        raise BadInput(f"{name} is {value!r}; expected one of {', '.join(choices)}.")


def require_values(over: Mapping[str, object]) -> None:
    """Raise BadInput unless each key of a sweep has a list of values, and there is a key."""
    if not over:
        raise BadInput("a sweep over no key; expected keys with values, as {'ppo.beta': [0.1, 1]}.")
    for key, values in over.items():
        if isinstance(values, str) or not isinstance(values, Collection):
            raise BadInput(f"{key} has {values!r}; expected a list of values, as [0.1, 1].")
