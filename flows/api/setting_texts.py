"""Settings of a recipe as Python values, written as the texts of `--set KEY=VALUE`."""

import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from flows.api.arguments import require_texts
from rlhf_core.errors import ConfigError

SettingValues = Mapping[str, object] | Sequence[str] | None
BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def setting_texts(values: SettingValues) -> list[str]:
    """Return 'key=value' texts of {'ppo.beta': 0.1}; texts of that form are returned as they are.

    None unsets a key, as `--set KEY=none` does. Raises ConfigError for a value that no recipe has.
    """
    if values is None:
        return []
    if isinstance(values, str | bytes) or not isinstance(values, Mapping | Sequence):
        raise ConfigError(
            f"settings are {values!r}; expected a dictionary such as {{'ppo.beta': 0.1}}, or a list"
            " of texts such as ['ppo.beta=0.1']."
        )
    if isinstance(values, Mapping):
        return [f"{key}={toml_value(key, value)}" for key, value in values.items()]
    require_texts("a setting of the list", values)
    return list(values)


def toml_value(key: str, value: object) -> str:
    """Return a value in TOML; None as none. Raises ConfigError, which names the key."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(int(value))
    if isinstance(value, float):
        return repr(float(value)) if math.isfinite(value) else str(float(value))
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False)
    if isinstance(value, Mapping):
        parts = [f"{_toml_key(str(k))} = {toml_value(key, v)}" for k, v in value.items()]
        return "{" + ", ".join(parts) + "}"
    if isinstance(value, Sequence):
        return "[" + ", ".join(toml_value(key, item) for item in value) + "]"
    if hasattr(value, "item"):  # a number of numpy or torch
        return toml_value(key, value.item())
    raise ConfigError(
        f"{key} is {value!r}, a {type(value).__name__}; expected a number, a text, True or False, a"
        " list, a dictionary, or None to unset the key."
    )


def _toml_key(key: str) -> str:
    return key if BARE_KEY.fullmatch(key) else json.dumps(key, ensure_ascii=False)
