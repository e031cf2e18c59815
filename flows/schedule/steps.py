"""Steps for infra/prefect.yaml."""

import os

from rlhf_core.config import load_recipe


def resolved(recipe: str, settings: list[str] | None = None) -> dict:
    """The recipe with its settings, as a deployment's parameter, and the folder that its relative
    paths begin in.

    Raises ConfigError, as `rlhf run` does.
    """
    return {
        "recipe": load_recipe(recipe, settings or []).model_dump(mode="json"),
        "directory": os.getcwd(),
    }
