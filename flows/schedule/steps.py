"""Steps for infra/prefect.yaml."""

import os

from rlhf_core.config import load_recipe


def resolved(recipe: str, settings: list[str] | None = None) -> dict:
    """Return the recipe as a deployment's parameter, and the folder of its relative paths.

    Raises ConfigError, as `rlhf run` does.
    """
    return {
        "recipe": load_recipe(recipe, settings or []).model_dump(mode="json"),
        "directory": os.getcwd(),
    }
