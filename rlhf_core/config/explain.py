"""Say in one line per key what is wrong with a recipe, and what to do."""

import difflib
import json
from collections.abc import Iterator
from typing import Literal, get_args, get_origin

from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from rlhf_core.config.fields import Config
from rlhf_core.config.recipe import Recipe

Location = tuple[str | int, ...]
SUGGESTIONS = 4  # keys that one line names at most
# names that TRL, OpenRLHF and verl give to a key -> its names here
_PEERS_NAMES = {
    "learning_rate": ("lr", "policy_lr"),
    "actor_learning_rate": ("policy_lr",),
    "critic_learning_rate": ("value_lr",),
    "num_train_epochs": ("epochs",),
    "num_ppo_epochs": ("epochs",),
    "ppo_epochs": ("epochs",),
    "max_steps": ("steps",),
    "kl_coef": ("beta",),
    "init_kl_coef": ("beta",),
    "init_kl_coeff": ("beta",),
    "cliprange": ("clip",),
    "clip_ratio": ("clip",),
    "num_generations": ("group_size",),
    "response_length": ("max_new_tokens",),
    "max_completion_length": ("max_new_tokens",),
    "train_batch_size": ("batch_size", "rollout_batch"),
    "per_device_train_batch_size": ("batch_size", "rollout_batch"),
}
_KINDS = {bool: "true or false", int: "an integer", float: "a number", str: "a text in quotes"}


def explain(error: ErrorDetails) -> str:
    """Return the line about one error of validation: key, value found, what is allowed."""
    location = error["loc"]
    key = ".".join(map(str, location))
    if key.endswith("api_key_env"):
        return (
            f"{key}: expected the NAME of an environment variable, e.g. JUDGE_API_KEY, not the key"
            " itself"
        )
    if error["type"] == "value_error":
        return (f"{key}: " if key else "") + error["msg"].removeprefix("Value error, ")
    if error["type"] == "missing":
        return f"{key} is missing; {_addition(location)}{_meaning(location)}"
    if error["type"] != "extra_forbidden":
        return f"{key}: {error['msg']} (found {error['input']!r:.80}){_meaning(location)}"
    close = _suggestions(location)
    return f"{key}: there is no such key" + (f"; did you mean {_either(close)}?" if close else "")


def mixed_types(
    values: dict, section: type[Config] = Recipe, above: Location = ()
) -> dict[Location, str]:
    """Return a line for each value of a recipe's file whose type its key does not take.

    pydantic would take true for 1, "32" for 32 and "yes" for true.
    """
    found: dict[Location, str] = {}
    for name, value in values.items():
        if (field := section.model_fields.get(name)) is None:
            continue
        place, inner = (*above, name), section_in(field.annotation)
        named = {place: value}
        if isinstance(value, dict) and _has_free_names(field):
            named = {(*place, key): each for key, each in value.items()}
        elif isinstance(value, list):
            named = {(*place, number): each for number, each in enumerate(value)}
        for where, each in named.items():
            if isinstance(each, dict):
                found |= mixed_types(each, inner, where) if inner else {}
            elif line := _mixed(each, set(_scalars(field.annotation))):
                found[where] = f"{'.'.join(map(str, where))}: {line}{_meaning(where)}"
    return found


def _mixed(value: object, kinds: set[type]) -> str:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    wrong = (
        (isinstance(value, bool) and bool not in kinds)
        or (isinstance(value, str) and str not in kinds)
        or (is_number and not kinds & {int, float})
    )
    if not kinds or not wrong:
        return ""
    expected = " or ".join(
        text
        for kind, text in _KINDS.items()
        if kind in kinds and not (kind is int and float in kinds)
    )
    return f"expected {expected} (found {json.dumps(value)})"


def _scalars(annotation: object) -> Iterator[type]:
    """Yield the types of single values in an annotation; those inside of a section left out."""
    if isinstance(annotation, type) and annotation in _KINDS:
        yield annotation
    elif get_origin(annotation) is Literal:
        yield from map(type, get_args(annotation))
    else:
        for part in get_args(annotation):
            yield from _scalars(part)


def field_of(location: Location) -> FieldInfo | None:
    """Return the field of a recipe's key; None if there is no such key."""
    return _walk(location)[0]


def _walk(location: Location) -> tuple[FieldInfo | None, type[Config] | None]:
    """Return the field of a key and the section below it.

    A name that the user chose, as NAME in gates.NAME, is no field: its entry has the field above.
    """
    field, section, is_free = None, Recipe, False
    below: type[Config] | None = section
    for name in location:
        if isinstance(name, int) or is_free:  # a place in a list, or a name that the user chose
            is_free = False
            continue
        field = below.model_fields.get(name) if below is not None else None
        below = section_in(field.annotation) if field else None
        is_free = field is not None and _has_free_names(field)
    return field, below


def _has_free_names(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is dict


def section_in(annotation: object) -> type[Config] | None:
    """Return the recipe section in an annotation, also inside a union, a list or Annotated."""
    if isinstance(annotation, type) and issubclass(annotation, Config):
        return annotation
    return next(filter(None, map(section_in, get_args(annotation))), None)


def _meaning(location: Location) -> str:
    """Return the description of a key and its default, '' if the key is unknown.

    They help the reader whose value was refused.
    """
    field = field_of(location)
    if field is None:
        return ""
    known = [field.description.rstrip(".")] if field.description else []
    if field.default is None or isinstance(field.default, str | int | float):
        known.append(f"default {'none' if field.default is None else json.dumps(field.default)}")
    return f". It is: {'; '.join(known)}" if known else ""


def _addition(location: Location) -> str:
    """Return what a recipe needs whose required key is missing."""
    key, above = str(location[-1]), ".".join(map(str, location[:-1]))
    field, below = _walk(location)
    # a source, as data.comparisons, is a section that is written as one text
    if below is None or field is None or field.metadata:
        return f"add {key} = ..." + (f" to [{above}]" if above else " before the first [section]")
    needed = [name for name, inner in below.model_fields.items() if inner.is_required()]
    return f"add [{key}] with {', '.join(f'{name} = ...' for name in needed)}"


def _suggestions(location: Location) -> list[str]:
    """Return the keys that an unknown one may stand for, most likely first.

    They are in its own section; for a key above all sections, anywhere.
    """
    section = _walk(location[:-1])[1] if len(location) > 1 else Recipe
    if section is None:
        return []
    name, known = str(location[-1]), list(_keys(section))
    names = (name, *_PEERS_NAMES.get(name, ()))
    if same := [key for key in known if key.split(".")[-1] in names]:
        nearest = min(key.count(".") for key in same)
        return [key for key in same if key.count(".") == nearest][:SUGGESTIONS]
    for keys in (list(section.model_fields), known if len(location) == 1 else []):
        if close := difflib.get_close_matches(name, [key.split(".")[-1] for key in keys], n=3):
            return [key for key in keys if key.split(".")[-1] in close][:SUGGESTIONS]
    return []


def _keys(section: type[Config]) -> Iterator[str]:
    """Yield every key of a section and of the sections in it, dotted, in their order."""
    for name, field in section.model_fields.items():
        yield name
        inner = section_in(field.annotation)
        if inner is not None and not _has_free_names(field):
            yield from (f"{name}.{key}" for key in _keys(inner))


def _either(names: list[str]) -> str:
    *others, last = names
    return f"{', '.join(others)} or {last}" if others else last
