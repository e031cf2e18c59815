"""Conditions on pipeline runs, as the commands over many runs take them."""

import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from rlhf_core.errors import ConfigError
from tasks.analysis.board.run_rows import RunRow

FILTER = (
    "a recipe's name, a pattern of run names (quickstart-*), or a condition on a recipe key, a"
    " metric, status or name (ppo.beta=0.1, eval/win_rate>0.6, status!=FAILED)"
)
_CONDITION = re.compile(r"([^=!<>]+?)\s*(<=|>=|!=|=|<|>)\s*(.*)", re.DOTALL)
_COMPARE: dict[str, Callable[[Any, Any], bool]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
}
_ORDER = ("<", "<=", ">", ">=")


@dataclass(frozen=True)
class RunCondition:
    """One condition. key: '' for a recipe's name or a pattern of run names."""

    key: str
    sign: str
    value: str

    def holds(self, row: RunRow) -> bool:
        """Return True for a run that meets it. A run without the key meets only `!=`."""
        if not self.key:
            return row.recipe == self.value or fnmatchcase(row.name, self.value)
        found = value_of(row, self.key)
        if found is None:
            return self.sign == "!="
        numbers = _number(found), _number(self.value)
        if None not in numbers:
            return _COMPARE[self.sign](*numbers)
        return self.sign not in _ORDER and _COMPARE[self.sign](str(found), self.value)


def conditions(texts: Sequence[str]) -> list[RunCondition]:
    """Return the conditions that texts state (see FILTER). Raises ConfigError."""
    return [_condition(text) for text in texts]


def _condition(text: str) -> RunCondition:
    if match := _CONDITION.fullmatch(text.strip()):
        key, sign, value = match.groups()
        if sign in _ORDER and _number(value) is None:
            raise ConfigError(
                f"filter {text!r}: {value!r} is no number, which {sign} needs; expected {FILTER}."
            )
        return RunCondition(key, sign, value.strip("'\""))
    if not text.strip() or any(sign in text for sign in "=<>"):
        raise ConfigError(f"filter {text!r} is no condition; expected {FILTER}.")
    return RunCondition("", "=", text.strip())


def chosen(rows: Sequence[RunRow], texts: Sequence[str]) -> list[RunRow]:
    """Return the runs that meet every condition.

    Raises ConfigError for a condition on a key that no run has, which is most likely misspelt.
    """
    wanted = conditions(texts)
    for condition in wanted:
        require_key(rows, condition.key)
    return [row for row in rows if all(condition.holds(row) for condition in wanted)]


def require_key(rows: Sequence[RunRow], key: str) -> None:
    """Raise ConfigError, with keys that are like it, for a key that no run has."""
    if not key or not rows or any(value_of(row, key) is not None for row in rows):
        return
    known = dict.fromkeys(name for row in rows for name in (*row.params, *row.metrics))
    last = key.rpartition(".")[2].rpartition("/")[2]
    close = [name for name in known if last in name and not name.endswith((".low", ".high", ".n"))]
    hint = f"; did you mean {', '.join(close[:4])}?" if close else "."
    raise ConfigError(f"no run has {key}; expected a recipe key or a metric{hint}")


def value_of(row: RunRow, key: str) -> str | float | None:
    """Return what a run has under a key: a recipe key, a metric, `status` or `name`."""
    if key in ("status", "name"):
        return row.status if key == "status" else row.name
    return row.params[key] if key in row.params else row.metrics.get(key)


def _number(value: object) -> float | None:
    try:
        return float(str(value))
    except ValueError:
        return None
