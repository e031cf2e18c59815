"""A recipe for tests that run no stage."""

from rlhf_core.config import Recipe


def tiny_recipe(**changes: object) -> Recipe:
    """Return a recipe `tiny` whose files need not exist; `changes` replace whole sections."""
    values = {
        "name": "tiny",
        "model": {"base": "base"},
        "registry": {"name": "tiny"},
        "data": {"demonstrations": "d.jsonl", "comparisons": "c.jsonl"},
    }
    return Recipe.model_validate(values | changes)
