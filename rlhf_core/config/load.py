"""Read a recipe: a TOML file, settings on top, and one clear sentence per error."""

import os
import re
import tomllib
from pathlib import Path
from typing import get_args

from pydantic import ValidationError

from rlhf_core import ROOT
from rlhf_core.config.explain import explain, field_of, mixed_types
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
    wrong = mixed_types(values)
    for setting in settings:
        _apply(values, setting)
    lines = list(wrong.values())
    try:
        recipe = Recipe.model_validate(values)
    except ValidationError as error:
        lines += [explain(each) for each in error.errors() if each["loc"] not in wrong]
    if lines:
        raise ConfigError(f"recipe {name} is not valid:\n  " + "\n  ".join(lines))
    return recipe


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
        data = path.read_bytes()
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ConfigError(
            f"{path} line {line} is not UTF-8 (byte 0x{data[error.start]:02x}); expected UTF-8"
            " text. Convert the file, e.g. `iconv -f WINDOWS-1252 -t UTF-8`."
        ) from None
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path} is not valid TOML: {_of_line(error, text)}") from None


def _of_line(error: tomllib.TOMLDecodeError, text: str) -> str:
    """Return the message of tomllib with the line that it speaks of."""
    message = str(error)
    if not (place := re.search(r"at line (\d+)", message)):
        return message
    line = text.split("\n")[int(place[1]) - 1].split("#")[0].strip()
    if "overwrite" in message:
        message = f"a key is given twice (at line {place[1]}); remove one of the two"
    return f"{message}. The line is: {line:.80}" if line else message


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
