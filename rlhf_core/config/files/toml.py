"""Find the file of a recipe and read it as TOML, with one clear sentence per error."""

import os
import re
import tomllib
from pathlib import Path

from rlhf_core import ROOT
from rlhf_core.config.files.stored import stored_recipe
from rlhf_core.errors import ConfigError

RECIPES = ROOT / "flows" / "recipes"


def known_recipes() -> str:
    """Return the names of the recipes that come with the project."""
    return ", ".join(sorted(path.stem for path in RECIPES.glob("*.toml")))


def recipe_path(name: str, beside: Path | None = None) -> Path | None:
    """Return the file of a recipe that is named or given as a path; None if there is none.

    beside: the folder in which a relative path begins, by default the current one. A recipe in an
    object store is fetched. Raises ConfigError for a place that cannot be looked at.
    """
    if stored := stored_recipe(name, beside):
        return stored
    path = Path(name)
    path = RECIPES / f"{name}.toml" if path.suffix != ".toml" else (beside or Path()) / path
    try:
        return path if path.exists() else None
    except OSError as error:  # a folder that may not be searched, or a name that is too long
        raise _unreadable(path, error) from None


def parse_recipe(path: Path) -> tuple[dict, str]:
    """Return the values of a recipe's file, and its text. Raises ConfigError."""
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
        return tomllib.loads(text), text
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
