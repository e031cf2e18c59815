"""Whether the longest row that a recipe allows fits into what the model can read, known before anything is trained."""

import json
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput


def require_context(recipe: Recipe, model: Path) -> None:
    """Raise BadInput when a prompt with its response may exceed the model's context, naming the key and both numbers.

    A model whose config.json names no context (max_position_embeddings) has none.
    """
    context = json.loads((model / "config.json").read_text()).get("max_position_embeddings")
    if context is None:
        return
    prompt = recipe.data.max_prompt_tokens
    responses = {"data.max_response_tokens": recipe.data.max_response_tokens} | {
        f"{stage}.sampling.max_new_tokens": getattr(recipe, stage).sampling.max_new_tokens
        for stage in ("ppo", "evaluate")
        if recipe.runs(stage)
    }
    for key, response in responses.items():
        if prompt + response > context:
            raise BadInput(
                f"{key} {response} and data.max_prompt_tokens {prompt} are {prompt + response} tokens together, the context of "
                f"{model} is {context}. Lower one of them by {prompt + response - context} tokens."
            )
