"""Read a recipe: TOML files, settings on top, and one clear sentence per error."""

import tomllib
from typing import get_args

from pydantic import ValidationError

from rlhf_core.config.explain import Location, explain, field_of, mixed_types
from rlhf_core.config.files import RecipeSource, read_recipe
from rlhf_core.config.recipe import Recipe
from rlhf_core.errors import ConfigError


def load_recipe(name: str, settings: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Return a recipe, by its name or the path of a TOML file, with settings on top.

    A file may extend another (rlhf_core/config/files/extends.py).

    settings: 'key=value' with dotted keys and TOML values. 'key=none' unsets a key: it has no
    value, or its default where it needs one.
    Raises ConfigError that names the key, the value found and what is allowed.
    """
    source = read_recipe(name)
    values = source.values
    wrong = mixed_types(values)
    for setting in settings:
        _apply(values, setting)
    given = {tuple(setting.partition("=")[0].strip().split(".")) for setting in settings}
    lines = [line + _origin(source, place, given) for place, line in wrong.items()]
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        lines += [
            explain(each)
            + ("" if each["type"] == "missing" else _origin(source, each["loc"], given))
            for each in error.errors()
            if each["loc"] not in wrong
        ]
    if lines:
        raise ConfigError(f"recipe {name} is not valid:\n  " + "\n  ".join(lines))
    return recipe


def _origin(source: RecipeSource, place: Location, given: set[tuple[str, ...]]) -> str:
    """Return the end of a line that names the file of a value, where there are several files."""
    is_given = any(tuple(map(str, place))[: len(key)] == key for key in given)
    if len(source.files) == 1 or is_given or not (file := source.origin(place)):
        return ""
    return f" (set in {file})"


def _apply(values: dict, setting: str) -> None:
    key, equals, text = setting.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {setting!r}: expected key=value, e.g. ppo.beta=0.1")
    *parents, last = key.strip().split(".")
    for parent in parents:
        child = values.get(parent)
        if isinstance(child, str):  # a source given as a plain string
            child = {"path": child}
        if child and not isinstance(child, dict):
            raise ConfigError(
                f"--set {setting!r}: {parent} is {child!r} in the recipe, a value and no section;"
                " correct the key."
            )
        child = dict(child) if child else {}
        values[parent] = child
        values = child
    if text.strip() != "none" or not (field := field_of(tuple(key.strip().split(".")))):
        values[last] = _value(text.strip())
    elif type(None) in get_args(field.annotation):
        values[last] = None
    else:
        values.pop(last, None)  # back to the default


def _value(text: str) -> object:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
