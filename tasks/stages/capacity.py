"""Check before training that the longest allowed row fits model and sampler cache.

Check also that the samplers are installed.
"""

import json
from importlib.util import find_spec
from pathlib import Path

from rlhf_core.config import Recipe
from rlhf_core.errors import BadInput, ConfigError
from rlhf_core.stage_catalogue import SAMPLING


def require_context(recipe: Recipe, model: Path) -> None:
    """Raise BadInput when a prompt with its response may exceed the model's context or the cache.

    The message names the key and both numbers. A model whose config.json names no context
    (max_position_embeddings) has none.
    """
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    sampling = [stage for stage in SAMPLING if recipe.runs(stage)]
    responses = {"data.max_response_tokens": recipe.data.max_response_tokens} | {
        f"{stage}.sampling.max_new_tokens": recipe.sampling(stage).max_new_tokens
        for stage in sampling
    }
    if context := config.get("max_position_embeddings"):
        for key, response in responses.items():
            _require_room(key, response, recipe.data.max_prompt_tokens, context, model)
    for stage in sampling:
        _require_cache(recipe, stage, config)


def _require_room(key: str, response: int, prompt: int, context: int, model: Path) -> None:
    if prompt + response > context:
        raise BadInput(
            f"{key} {response} and data.max_prompt_tokens {prompt} are {prompt + response} tokens"
            f" together, the context of {model} is {context}. Lower one of them by"
            f" {prompt + response - context} tokens."
        )


def _require_cache(recipe: Recipe, stage: str, config: dict) -> None:
    """Check that one of the longest rows fits, for models whose shape `rlhf plan` knows."""
    from rlhf_core.plan.layout import strategy_of
    from rlhf_core.plan.memory import kv_bytes_per_token
    from rlhf_core.plan.shape import shape_of

    try:
        shape = shape_of(config, "", "")
    except ConfigError:
        return
    sampling, prompt = recipe.sampling(stage), recipe.data.max_prompt_tokens
    token = kv_bytes_per_token(shape, strategy_of(recipe, stage, 1))
    row = prompt + sampling.max_new_tokens
    if token * row > sampling.kv_cache_mib << 20:
        raise BadInput(
            f"{stage}.sampling.kv_cache_mib {sampling.kv_cache_mib} holds"
            f" {(sampling.kv_cache_mib << 20) // token} tokens, but data.max_prompt_tokens {prompt}"
            f" and {stage}.sampling.max_new_tokens {sampling.max_new_tokens} are {row}; set it to"
            f" at least {-(-token * row >> 20)}, and to many times that for speed."
        )


def require_samplers(recipe: Recipe, stages: list[str]) -> None:
    """Raise BadInput when a stage that is to run samples with vLLM, and there is none."""
    wanting = [
        stage for stage in SAMPLING if stage in stages and recipe.sampling(stage).engine == "vllm"
    ]
    if wanting and find_spec("vllm") is None:
        raise BadInput(
            f"{wanting[0]}.sampling.engine is 'vllm', which is not installed here; install it, or"
            f" set {' and '.join(f'{stage}.sampling.engine' for stage in wanting)} to"
            " 'transformers' (slower, the same statistics)."
        )
