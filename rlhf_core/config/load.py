"""Read a recipe: a TOML file, settings on top, and one clear sentence per error."""

import difflib
import json
import os
import tomllib
from pathlib import Path
from typing import get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rlhf_core import ROOT
from rlhf_core.config.fields import Config
from rlhf_core.config.recipe import Recipe
from rlhf_core.errors import ConfigError

RECIPES = ROOT / "flows" / "recipes"


def load_recipe(name: str, settings: list[str] | tuple[str, ...] = ()) -> Recipe:
    """Return a recipe, by its name or the path of a TOML file, with settings on top.

    settings: 'key=value' with dotted keys and TOML values. 'key=none' unsets a key: it has no
    value, or its default where it needs one.
    Raises ConfigError that names the key, the value found and what is allowed.
    """
    values = _read(name)
    for setting in settings:
        _apply(values, setting)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(e) for e in error.errors()]
        raise ConfigError(f"recipe {name} is not valid:\n  " + "\n  ".join(lines)) from None


def _explain(error: ErrorDetails) -> str:
    key = ".".join(map(str, error["loc"]))
    if key.endswith("api_key_env"):
        return (
            f"{key}: expected the NAME of an environment variable, e.g. JUDGE_API_KEY, not the key"
            " itself"
        )
    if error["type"] == "value_error":
        return (f"{key}: " if key else "") + error["msg"].removeprefix("Value error, ")
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']} (found {error['input']!r:.80}){_meaning(error['loc'])}"
    known = {name for section in _sections(Config) for name in section.model_fields}
    close = difflib.get_close_matches(str(error["loc"][-1]), sorted(known), n=3)
    return f"{key}: there is no such key" + (
        f"; did you mean {' or '.join(close)}?" if close else ""
    )


def _meaning(location: tuple[str | int, ...]) -> str:
    """Return the description of a key and its default, '' if the key is unknown.

    They help the reader whose value was refused.
    """
    # parts that are numbers are places in a list
    field = _field([part for part in location if isinstance(part, str)])
    if field is None:
        return ""
    known = [field.description.rstrip(".")] if field.description else []
    if field.default is None or isinstance(field.default, str | int | float):
        known.append(f"default {'none' if field.default is None else json.dumps(field.default)}")
    return f". It is: {'; '.join(known)}" if known else ""


def _field(names: list[str]) -> FieldInfo | None:
    """Return the field of a recipe's dotted key; None if there is no such key."""
    section: type[Config] | None = Recipe
    field = None
    for name in names:
        field = section.model_fields.get(name) if section is not None else None
        section = _section_in(field.annotation) if field else None
    return field


def _section_in(annotation: object) -> type[Config] | None:
    """Return the recipe section in an annotation, also inside a union, a list or Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(_section_in, get_args(annotation))), None)


def _sections(kind: type[Config]) -> list[type[Config]]:
    return [section for child in kind.__subclasses__() for section in (child, *_sections(child))]


def _read(name: str) -> dict:
    path = Path(name)
    if path.suffix != ".toml":
        path = RECIPES / f"{name}.toml"
    try:
        there = path.exists()
    except OSError as error:  # a folder that may not be searched, or a name that is too long
        raise _unreadable(path, error) from None
    if not there:
        known = ", ".join(sorted(p.stem for p in RECIPES.glob("*.toml")))
        raise ConfigError(
            f"no recipe {name!r}; expected one of {known}, or the path of a .toml file"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise _unreadable(path, error) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None


def _unreadable(path: Path, error: OSError) -> ConfigError:
    return ConfigError(
        f"recipe {path} cannot be read ({error.strerror}); expected a .toml file that user"
        f" {os.geteuid()} may read. Check the path, or have its owner run `chmod a+r` on it."
    )


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
    if text.strip() != "none" or not (field := _field(key.strip().split("."))):
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
