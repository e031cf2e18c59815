"""The files of a recipe: where they are, how one is read, and how one extends another."""

from rlhf_core.config.files.extends import RecipeFile, RecipeSource, read_recipe
from rlhf_core.config.files.toml import RECIPES

__all__ = ["RECIPES", "RecipeFile", "RecipeSource", "read_recipe"]
