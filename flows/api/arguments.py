"""Check what Python callers pass, as the command line checks its words."""

from collections.abc import Collection, Iterable, Mapping
from os import PathLike, fspath
from typing import Any

from flows.api.run_view import Run
from rlhf_core.errors import BadInput


def require_text(name: str, value: object) -> None:
    """Raise BadInput for a reference that is no text."""
    if not isinstance(value, str):
        raise BadInput(f"{name} is {value!r}; expected a text.")


def require_texts(name: str, values: Iterable[object]) -> None:
    """Raise BadInput for the first value that is no text. name: of one of them."""
    for value in values:
        require_text(name, value)


def path_text(name: str, value: object) -> str:
    """Return a path as a text. Raises BadInput for what is neither a path nor a text."""
    text = fspath(value) if isinstance(value, str | PathLike) else None
    if not isinstance(text, str):
        raise BadInput(f"{name} is {value!r}; expected a text or a path.")
    return text


def run_name(name: str, run: object) -> str:
    """Return the name of a run that is given as a Run or by its name. Raises BadInput."""
    if isinstance(run, Run):
        return run.name
    if not isinstance(run, str):
        raise BadInput(f"{name} is {run!r}; expected a run or its name.")
    return run


def require_count(name: str, value: object) -> None:
    """Raise BadInput unless the value is a positive integer, or None for the default."""
    if value is not None and (type(value) is not int or value < 1):
        raise BadInput(f"{name} is {value!r}; expected a positive integer.")


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
    if over is not None and not isinstance(over, Mapping):
        raise BadInput(
            f"over is {over!r}; expected keys with lists of values, as {{'ppo.beta': [0.1, 1]}}."
        )
    if not over:
        raise BadInput("a sweep over no key; expected keys with values, as {'ppo.beta': [0.1, 1]}.")
    for key, values in over.items():
        if isinstance(values, str) or not isinstance(values, Collection):
            raise BadInput(f"{key} has {values!r}; expected a list of values, as [0.1, 1].")
