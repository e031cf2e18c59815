"""The result of a check as a sentence: what was found, or why the run would refuse it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from rlhf_core.errors import BadInput

FindingLevel = Literal["ok", "note", "refused"]


@dataclass(frozen=True)
class ModelFinding:
    """One thing that was looked at.

    level: 'refused' if a run refuses it, 'note' for what a user should know. values: the numbers in
    the sentence, by name.
    """

    name: str
    level: FindingLevel
    found: str
    values: dict[str, Any] = field(default_factory=dict)


def ok(name: str, found: str, **values: object) -> ModelFinding:
    """Return a finding that needs nothing."""
    return ModelFinding(name, "ok", found, values)


def note(name: str, found: str, **values: object) -> ModelFinding:
    """Return a finding that a user should know of."""
    return ModelFinding(name, "note", found, values)


def checked(name: str, look: Callable[[], ModelFinding]) -> ModelFinding:
    """Return what `look` finds; a check of the pipeline that refuses becomes its own message."""
    try:
        return look()
    except BadInput as error:
        return ModelFinding(name, "refused", str(error))


def refuses(found: list[ModelFinding], *names: str) -> bool:
    """Return True when one of the findings of these names is refused."""
    return any(one.level == "refused" and one.name in names for one in found)
