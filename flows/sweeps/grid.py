"""The grid of a sweep: every combination of the keys' values as a recipe, all of them checked."""

import contextlib
import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rlhf_core.config import Recipe, load_recipe
from rlhf_core.digest import code_digest, digest_json
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.metrics import METRICS
from tasks.execution.stage_calls import require_stages
from tasks.records.workspace import Workspace
from tasks.stages.contract import check_paths
from tasks.sweeps.sweep import Sweep, SweepPoint

OPENING, CLOSING = "[{", "]}"
IDENTITY = ("name", "description", "registry", "limits")  # keys that change no result of a run


@dataclass(frozen=True)
class SweepPlan:
    """The runs that a sweep makes."""

    recipe: str  # name or file as given
    settings: dict[str, list[str]]  # of each label, in the grid's order
    sweep: Sweep


@dataclass(frozen=True)
class SweepRequest:
    """The options of one `rlhf sweep` command."""

    over: list[str]
    settings: list[str]
    until: str
    metrics: list[str]
    max_runs: int


def make_plan(recipe: str, request: SweepRequest) -> SweepPlan:
    """Return the grid; every recipe of it is valid and its files exist.

    Raises ConfigError or BadInput, which names the value at fault.
    """
    _check_metrics(request.metrics)
    axes = _axes(request)
    _check_size(axes, request.max_runs)
    settings = _settings(axes, request.settings)
    recipes: dict[str, Recipe] = {}
    for label, values in settings.items():
        with _naming(label):
            recipes[label] = load_recipe(recipe, values)
    _require_different(recipes)
    require_stages()
    for label, found in recipes.items():
        with _naming(label):
            check_paths(found)
    points = [
        SweepPoint(label=label, values={key: _value(found, key) for key in axes})
        for label, found in recipes.items()
    ]
    return SweepPlan(recipe, settings, _sweep(list(recipes.values()), points, request))


def _check_size(axes: dict[str, list[str]], max_runs: int) -> None:
    count = math.prod(map(len, axes.values()))
    if count > max_runs:
        sizes = " x ".join(f"{len(texts)} of {key}" for key, texts in axes.items())
        raise ConfigError(
            f"that is {count} runs ({sizes}), more than --max-runs {max_runs}; drop values or"
            " raise it."
        )


def _settings(axes: dict[str, list[str]], fixed: list[str]) -> dict[str, list[str]]:
    """Return label -> settings for every combination of the axes' values."""
    settings: dict[str, list[str]] = {}
    for texts in itertools.product(*axes.values()):
        over = [f"{key}={text}" for key, text in zip(axes, texts, strict=True)]
        label = ", ".join(over)
        if label in settings:
            raise ConfigError(f"{label} is given twice; give each value once.")
        settings[label] = [*fixed, *over]
    return settings


def _check_metrics(names: list[str]) -> None:
    for name in names:
        if name not in METRICS:
            close = [known for known in METRICS if name.rpartition("/")[2] in known][:4]
            hint = (
                f"; did you mean {', '.join(close)}?"
                if close
                else "; rlhf_core/metric_tables/stages.py lists them."
            )
            raise ConfigError(f"--metric {name}: there is no such metric{hint}")


def _axes(request: SweepRequest) -> dict[str, list[str]]:
    axes: dict[str, list[str]] = {}
    fixed = {setting.partition("=")[0].strip() for setting in request.settings}
    for text in request.over:
        key, equals, values = (part.strip() for part in text.partition("="))
        if not equals or not key:
            raise ConfigError(
                f"--over {text!r}: expected key=value,value,... e.g. ppo.beta=0.02,0.05,0.1"
            )
        if key.partition(".")[0] in IDENTITY:
            raise ConfigError(
                f"--over {key}: it says where runs are filed, or what they may take; expected a key"
                " that changes a result."
            )
        if key in axes or key in fixed:
            raise ConfigError(f"{key} is given twice; expected it once, in --over or in --set.")
        axes[key] = split_values(key, values)
    return axes


def split_values(key: str, text: str) -> list[str]:
    """Split '0.1,[1,2],"a,b"' into three TOML values; commas in brackets or quotes do not split.

    Raises ConfigError for an open quote or bracket, and for an empty value.
    """
    parts, depth, quote, start = [], 0, "", 0
    for place, letter in enumerate(text):
        if quote:
            escaped = quote == '"' and re.search(r"\\+$", text[start:place])
            quote = quote if letter != quote or (escaped and len(escaped[0]) % 2) else ""
        elif letter in "\"'":
            quote = letter
        elif letter in OPENING + CLOSING:
            depth += 1 if letter in OPENING else -1
        elif letter == "," and not depth:
            parts.append(text[start:place])
            start = place + 1
    parts = [part.strip() for part in [*parts, text[start:]]]
    if quote or depth:
        raise ConfigError(f"--over {key}={text}: a {'quote' if quote else 'bracket'} is left open.")
    if not all(parts):
        raise ConfigError(
            f"--over {key}={text}: an empty value; expected values with one comma between them."
        )
    return parts


@contextlib.contextmanager
def _naming(label: str) -> Iterator[None]:
    """Put the label before the message of an error inside."""
    try:
        yield
    except BadInput as error:
        raise type(error)(f"{label}: {error}", code=error.code) from None


def _require_different(recipes: dict[str, Recipe]) -> None:
    seen: dict[str, str] = {}
    for label, recipe in recipes.items():
        before = seen.setdefault(digest_json(recipe.model_dump(mode="json")), label)
        if before != label:
            raise ConfigError(f"{before} and {label} are the same recipe; give each value once.")


def _value(recipe: Recipe, key: str) -> Any:
    """Return a key's validated value; a value that is not a scalar as JSON text."""
    value: Any = recipe.model_dump(mode="json")
    for part in key.split("."):
        value = value[part] if isinstance(value, dict) and part in value else None
    return value if isinstance(value, str | int | float | bool) else json.dumps(value)


def _sweep(recipes: list[Recipe], points: list[SweepPoint], request: SweepRequest) -> Sweep:
    # a sweep that a limit has ended is the same one when the limit is raised
    bodies = sorted(
        digest_json(recipe.model_dump(mode="json", exclude={"limits"})) for recipe in recipes
    )
    identity = digest_json([bodies, request.until, code_digest()])[:12]
    return Sweep(
        id=identity,
        name=f"{recipes[0].name}-sweep-{identity[:7]}",
        recipe=recipes[0].name,
        keys=list(points[0].values),
        until=request.until,
        wanted=request.metrics,
        tracking_uri=Workspace.here().tracking_uri,
        points=points,
    )
