"""Read a recipe with the recipes that it extends, as one set of values.

`extends = "quickstart"` at the top of a file names the recipe that it changes: one that comes with
the project, or a .toml file, whose relative path begins in the folder of the file that names it.
Tables are merged key by key, and any other value replaces the inherited one. `unset` lists
inherited keys that the file does without.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import BaseModel

from rlhf_core.config.files.toml import known_recipes, parse_recipe, recipe_path
from rlhf_core.digest import digest_file
from rlhf_core.errors import ConfigError

# a recipe that inherited these would be recorded, and promoted, as the one that it extends
NOT_INHERITED = ("name", "registry.name")
KeyPath = tuple[str | int, ...]


class RecipeFile(BaseModel):
    """A file that a recipe was read from: its path, the digest of its bytes, and its text."""

    path: Path
    digest: str
    toml: str


@dataclass(frozen=True)
class RecipeSource:
    """The values of a recipe, and where they come from.

    files: the recipe's own first, then the one that it extends, and so on. origins: the file that
    gives each value, by the value's key.
    """

    values: dict
    files: tuple[RecipeFile, ...]
    origins: dict[KeyPath, Path]

    def origin(self, place: KeyPath) -> Path | None:
        """Return the file that gives the value at a place; None for a section of several values."""
        for end in range(len(place), 0, -1):
            if found := self.origins.get(place[:end]):
                return found
        return None


@dataclass(frozen=True)
class _Layer:
    """One file of a chain: what it sets, and the inherited keys that it does without."""

    path: Path
    values: dict
    unset: list[str]


def read_recipe(name: str) -> RecipeSource:
    """Return the values of a recipe, those of the recipes that it extends below them.

    Raises ConfigError for a file that cannot be read, for a recipe that is not there, and for one
    that extends itself.
    """
    path = recipe_path(name)
    if path is None:
        raise ConfigError(
            f"no recipe {name!r}; expected one of {known_recipes()}, or the path of a .toml file"
        )
    layers: list[_Layer] = []
    files: list[RecipeFile] = []
    following: Path | None = path
    while following:
        values, text = parse_recipe(following)
        files.append(RecipeFile(path=following, digest=digest_file(following), toml=text))
        parent = _text(following, values.pop("extends", None))
        layers.append(_Layer(following, values, _unset(following, values, parent)))
        following = _parent(parent, [layer.path for layer in layers]) if parent else None
    return _merged(layers, files)


def _merged(layers: list[_Layer], files: list[RecipeFile]) -> RecipeSource:
    """Return the values of the last layer, with each earlier one on top."""
    values, origins = layers[-1].values, dict.fromkeys(_leaves(layers[-1].values), layers[-1].path)
    for layer in reversed(layers[:-1]):
        for key in NOT_INHERITED:
            _remove(values, key)
        for key in layer.unset:
            if not _remove(values, key):
                raise ConfigError(
                    f"{layer.path}: unset has {key!r}, which the recipe that it extends does not"
                    " set; expected one of its keys, such as data.comparisons_heldout. Correct the"
                    " key or remove it."
                )
        values = _on_top(values, layer.values)
        origins |= dict.fromkeys(_leaves(layer.values), layer.path)
    return RecipeSource(values, tuple(files), origins)


def _text(path: Path, extends: object) -> str | None:
    if extends is None or (isinstance(extends, str) and extends):
        return extends
    raise ConfigError(
        f"{path}: extends is {extends!r}; expected the name of a recipe ({known_recipes()}) or the"
        " path of a .toml file, in quotes."
    )


def _unset(path: Path, values: dict, parent: str | None) -> list[str]:
    unset = values.pop("unset", [])
    if not isinstance(unset, list) or not all(isinstance(key, str) for key in unset):
        raise ConfigError(
            f"{path}: unset is {unset!r}; expected a list of keys, such as"
            ' ["data.comparisons_heldout"].'
        )
    if unset and parent is None:
        raise ConfigError(
            f"{path}: unset removes keys of the recipe that extends names, and there is no extends."
            " Add it, or remove unset."
        )
    return unset


def _parent(name: str, chain: list[Path]) -> Path:
    """Return the file that the last file of a chain extends. Raises ConfigError."""
    found = recipe_path(name, chain[-1].parent)
    words = " extends ".join(map(str, chain))
    if found is None:
        raise ConfigError(
            f"{words} extends {name!r}, and there is no such recipe; expected one of"
            f" {known_recipes()}, or the path of a .toml file from {chain[-1].parent.resolve()}."
            " Correct extends."
        )
    if found.resolve() in [path.resolve() for path in chain]:
        raise ConfigError(
            f"{words} extends {found}: a recipe cannot extend itself. Remove extends from one of"
            " these files."
        )
    return found


def _on_top(below: dict, above: dict) -> dict:
    """Return the values of `below` with those of `above` on top."""
    merged = dict(below)
    for key, value in above.items():
        inherited = merged.get(key)
        if isinstance(inherited, str) and isinstance(value, dict):  # a source given as its path
            inherited = {"path": inherited}
        # another source has columns and a format of its own
        if isinstance(inherited, dict) and isinstance(value, dict) and "path" not in value:
            merged[key] = _on_top(inherited, value)
        else:
            merged[key] = value
    return merged


def _remove(values: dict, key: str) -> bool:
    """Remove a dotted key; return False if it is not there."""
    *sections, last = key.split(".")
    for name in sections:
        if not isinstance(values := values.get(name, {}), dict):
            return False
    return values.pop(last, None) is not None


def _leaves(values: dict, above: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the place of every value that is no table."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, (*above, key))
        else:
            yield (*above, key)
