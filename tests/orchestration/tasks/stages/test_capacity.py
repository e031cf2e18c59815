"""Rows that a model or a cache cannot hold are refused before anything is trained."""

import json

import pytest
from recipes import prepared_recipe

from rlhf_core.errors import BadInput
from tasks.stages import capacity, validate
from tasks.stages.capacity import require_samplers


@pytest.mark.parametrize(
    ("changes", "key", "response"),
    [
        ({}, None, None),
        ({"ppo": {"sampling": {"max_new_tokens": 257}}}, "ppo.sampling.max_new_tokens", 257),
        (
            {"evaluate": {"sampling": {"max_new_tokens": 300}}},
            "evaluate.sampling.max_new_tokens",
            300,
        ),
        (
            {
                "data": {
                    "demonstrations": "org/a",
                    "comparisons": "org/b",
                    "max_response_tokens": 500,
                }
            },
            "data.max_response_tokens",
            500,
        ),
    ],
)
def test_a_response_longer_than_the_models_context_is_refused_before_anything_is_trained(
    have, changes, key, response
):
    (have["base"].path / "config.json").write_text('{"max_position_embeddings": 512}')
    if key is None:
        assert validate.spec(prepared_recipe(), have)
        return
    message = (
        rf"{key} {response} and data.max_prompt_tokens 256 are {256 + response} tokens together,"
        r" the context of .*base is 512. "
        rf"Lower one of them by {response - 256} tokens"
    )
    with pytest.raises(BadInput, match=message):
        validate.spec(prepared_recipe(**changes), have)


def test_a_given_sft_models_context_counts_in_place_of_the_base_models(have):
    (have["base"].path / "config.json").write_text('{"max_position_embeddings": 512}')
    (have["sft"].path / "config.json").write_text('{"max_position_embeddings": 300}')
    with pytest.raises(BadInput, match=r"the context of .*sft is 300"):
        validate.spec(
            prepared_recipe(model={"base": "quickstart", "sft": str(have["sft"].path)}), have
        )


# 2 layers * 2 * 32 numbers per token: 512 bytes in float32
LLAMA = {
    "model_type": "llama",
    "vocab_size": 64,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


# with 256 tokens of prompt 6,144, and 3 MiB hold as many
CACHE = {"max_new_tokens": 5888, "kv_cache_mib": 3}


@pytest.mark.parametrize("stage", ["ppo", "evaluate"])
def test_a_cache_that_cannot_hold_one_row_is_refused_before_anything_is_trained(have, stage):
    (have["base"].path / "config.json").write_text(json.dumps(LLAMA))
    assert validate.spec(prepared_recipe(**{stage: {"sampling": CACHE}}), have)
    longer = CACHE | {"max_new_tokens": 5889}
    message = (
        rf"{stage}.sampling.kv_cache_mib 3 holds 6144 tokens, but data.max_prompt_tokens 256 and "
        rf"{stage}.sampling.max_new_tokens 5889 are 6145; set it to at least 4"
    )
    with pytest.raises(BadInput, match=message):
        validate.spec(prepared_recipe(**{stage: {"sampling": longer}}), have)
    assert validate.spec(
        prepared_recipe(model={"base": "b", "dtype": "bfloat16"}, **{stage: {"sampling": longer}}),
        have,
    )
    (have["base"].path / "config.json").write_text(
        json.dumps(LLAMA | {"model_type": "of another make"})
    )
    assert validate.spec(prepared_recipe(**{stage: {"sampling": longer}}), have)


def test_a_recipe_that_samples_with_vllm_is_refused_where_there_is_none(monkeypatch):
    require_samplers(prepared_recipe(), ["ppo", "evaluate"])
    monkeypatch.setattr(capacity, "find_spec", lambda name: None)
    require_samplers(prepared_recipe(), ["prepare", "validate", "sft", "reward"])
    plain = {"sampling": {"engine": "transformers"}}
    require_samplers(prepared_recipe(ppo=plain, evaluate=plain), ["ppo", "evaluate"])
    with pytest.raises(
        BadInput,
        match=r"evaluate\.sampling\.engine is 'vllm', which is not installed here.* 'transformers'",
    ):
        require_samplers(prepared_recipe(ppo=plain), ["ppo", "evaluate"])
