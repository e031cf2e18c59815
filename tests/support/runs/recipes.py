"""Recipes for tests that run no stage."""

from rlhf_core.config import Recipe

# the files of a folder that a recipe may name as a model
MODEL_FILES = ("config.json", "tokenizer_config.json", "model.safetensors")


def tiny_recipe(**changes: object) -> Recipe:
    """Return a recipe `tiny` whose files need not exist; `changes` replace whole sections."""
    values = {
        "name": "tiny",
        "model": {"base": "base"},
        "registry": {"name": "tiny"},
        "data": {"demonstrations": "d.jsonl", "comparisons": "c.jsonl"},
    }
    return Recipe.model_validate(values | changes)


def prepared_recipe(**changes: object) -> Recipe:
    """Return a recipe on the quickstart's base model, a prepared file and a data set of a hub."""
    data = {
        "demonstrations": "{prepared}/data.jsonl",
        "comparisons": {"path": "org/name", "revision": "0" * 40},
    }
    return tiny_recipe(**{"model": {"base": "quickstart"}, "data": data} | changes)


def llama_recipe(**changes: object) -> Recipe:
    """Return a recipe on Llama 2 7B with prompts of 192 and responses of 256 tokens."""
    limits = {"max_prompt_tokens": 192, "max_response_tokens": 256}
    data = {"demonstrations": "d", "comparisons": "c"} | limits
    return tiny_recipe(**{"model": {"base": "llama-2-7b"}, "data": data} | changes)
