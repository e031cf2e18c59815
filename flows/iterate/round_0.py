"""The recipe of round 0: without the keys about new comparisons, which that round lacks."""

from rlhf_core.config import load_recipe, read_recipe

NEW_GATES = ("new_pairs", "new_accuracy", "new_lower_bound")  # of the reward model itself
KEYS_OF_NEW = (
    "reward.new_weight",
    "dpo.new_weight",
    "reward.before",
    *(f"reward.gate.min_{name}" for name in NEW_GATES),
    *(f"reward.gate.overrides.{name}" for name in NEW_GATES),
)
# the beginnings of their names
METRICS_OF_NEW = tuple(
    f"reward/{name}_new"
    for name in ("accuracy", "heldout_pairs", "score_shift", "score_distance", "spread_ratio")
)


def settings_of_round_0(recipe: str, settings: list[str]) -> list[str]:
    """Return the settings that round 0 has in place of these.

    A recipe with new comparisons of its own has them in every round, and keeps its keys. Else the
    keys about new comparisons are unset, whether a file or a setting gives them. Raises ConfigError
    for a recipe that cannot be read.
    """
    values = read_recipe(recipe).values
    keys = [*KEYS_OF_NEW, *_gates_of_new(values, settings)]
    kept = [setting for setting in settings if not _is_of(setting, keys)]
    first = kept + [f"{key}=none" for key in keys if _has(values, key)]
    return settings if load_recipe(recipe, first).data.new_comparisons else first


def _gates_of_new(values: dict, settings: list[str]) -> list[str]:
    """Return the keys of the recipe's further gates that are on metrics of new comparisons."""
    named = {f"gates.{name}": str(rule) for name, rule in (values.get("gates") or {}).items()}
    for setting in settings:
        key, _, value = setting.partition("=")
        parts = key.strip().split(".")
        if parts[0] == "gates" and len(parts) > 1:
            gate = ".".join(parts[:2])
            named[gate] = named.get(gate, "") + value
    return [key for key, text in named.items() if any(one in text for one in METRICS_OF_NEW)]


def _is_of(setting: str, keys: list[str]) -> bool:
    """Return True for a setting of one of these keys, or of a key below it."""
    given = setting.partition("=")[0].strip()
    return any(given == key or given.startswith(f"{key}.") for key in keys)


def _has(values: dict, key: str) -> bool:
    """Return True if the values of a file have the dotted key."""
    found: object = values
    for name in key.split("."):
        if not isinstance(found, dict) or name not in found:
            return False
        found = found[name]
    return True
