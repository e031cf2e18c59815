"""Rows that a model or a cache cannot hold are refused before anything is trained."""

import json
import shutil

import pytest
from recipes import prepared_recipe
from safetensors.torch import load_file, save_file
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    CTRLConfig,
    FalconConfig,
    GPT2Config,
    GPTNeoConfig,
    GraniteConfig,
    MixtralConfig,
)

from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine import scratch
from rlhf_core.errors import BadInput
from rlhf_core.interpreter import installed
from rlhf_core.modeling.models import load_scalar, save_model
from tasks.stages import validate
from tasks.stages.capacity import require_disk, require_samplers


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


def test_a_context_under_another_name_counts(have):
    GPT2Config(n_positions=300).save_pretrained(have["base"].path)
    with pytest.raises(BadInput, match=r"are 512 tokens together, the context of .*base is 300"):
        validate.spec(prepared_recipe(), have)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({}, "the reward stage trains one from it.*model.reward.*align = 'dpo'"),
        (
            {"align": "dpo", "evaluate": {"train_reward": True}},
            "the reward stage trains one from it",
        ),
        ({"model": {"base": "b", "reward": "GIVEN"}}, None),
        ({"align": "dpo", "evaluate": {"independent_scorer": "rules:exact"}}, None),
        (
            {
                "model": {"base": "b", "reward": "GIVEN"},
                "ppo": {"reward": {"model_weight": 0, "functions": ["rules:exact"]}},
            },
            "ppo.critic 'own' starts as one. Set ppo.critic to 'shared'",
        ),
        (
            {
                "model": {"base": "b", "reward": "GIVEN"},
                "ppo": {
                    "critic": "shared",
                    "reward": {"model_weight": 0, "functions": ["rules:exact"]},
                },
            },
            None,
        ),
    ],
)
def test_a_model_that_can_have_no_scalar_head_is_refused_where_one_is_made_from_it(
    have, changes, culprit
):
    CTRLConfig(n_positions=512).save_pretrained(have["base"].path)
    if "model" in changes:
        changes = changes | {"model": {"base": "b", "reward": str(have["reward"].path)}}
    recipe = prepared_recipe(**changes)
    if culprit is None:
        assert validate.spec(recipe, have)
        return
    message = rf"base is of the family 'ctrl', of which .* with one linear head; {culprit}"
    with pytest.raises(BadInput, match=message):
        validate.spec(recipe, have)


def test_a_family_without_a_sequence_classifier_is_taken(have):
    GraniteConfig(max_position_embeddings=512).save_pretrained(have["base"].path)
    assert validate.spec(prepared_recipe(), have)


@pytest.mark.parametrize("given", ["sft", "reward"])
def test_a_given_model_with_fewer_embeddings_than_tokens_is_refused(
    have, tiny_model, tmp_path, given
):
    folder = shutil.copytree(tiny_model, tmp_path / "given")
    recipe = prepared_recipe(model={"base": "b", given: str(folder)})
    assert validate.spec(recipe, have)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    tokenizer.save_pretrained(folder)
    with pytest.raises(BadInput, match=r"given has 63 tokens, the model has embeddings for 62"):
        validate.spec(recipe, have)


@pytest.mark.parametrize("given", ["sft", "reward"])
def test_a_given_model_without_all_its_weights_is_refused(have, tiny_model, tmp_path, given):
    folder = shutil.copytree(tiny_model, tmp_path / "given")
    weights = load_file(folder / "model.safetensors")
    weights.pop("model.norm.weight")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BadInput, match=r"given lacks 1 of the model's weights \(model\.norm"):
        validate.spec(prepared_recipe(model={"base": "b", given: str(folder)}), have)


def test_a_given_reward_model_of_another_tokenizer_is_refused_where_ppo_needs_the_same(
    have, tiny_model, tmp_path
):
    folder = shutil.copytree(tiny_model, tmp_path / "given")
    shutil.copytree(tiny_model, have["base"].path, dirs_exist_ok=True)
    given = {"base": "b", "reward": str(folder)}
    recipe = prepared_recipe(model=given, ppo={"reward": {"model_at": "every"}})
    assert validate.spec(recipe, have)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "<unk>"
    tokenizer.save_pretrained(folder)
    assert validate.spec(prepared_recipe(model=given), have)
    with pytest.raises(BadInput, match=r"ppo.reward.model_at is 'every', but the reward model"):
        validate.spec(recipe, have)


@pytest.mark.parametrize("served", [True, False])
def test_a_model_that_vllm_does_not_serve_is_refused_where_vllm_samples(have, served):
    shape = {"hidden_size": 8, "num_layers": 1, "num_heads": 1, "max_position_embeddings": 512}
    config = GPTNeoConfig(**shape, attention_types=[[["global"], 1]])
    config.architectures = ["BloomForCausalLM" if served else "GPTNeoForCausalLM"]
    config.save_pretrained(have["base"].path)
    plain = {"sampling": {"engine": "transformers"}}
    assert validate.spec(prepared_recipe(ppo=plain, evaluate=plain), have)
    if served:
        assert validate.spec(prepared_recipe(), have)
        return
    message = (
        r"base is a GPTNeoForCausalLM, which vLLM does not serve; set ppo\.sampling\.engine and"
        r" evaluate\.sampling\.engine to 'transformers'"
    )
    with pytest.raises(BadInput, match=message):
        validate.spec(prepared_recipe(), have)


def test_a_recipe_that_samples_with_vllm_is_refused_where_there_is_none(monkeypatch):
    require_samplers(prepared_recipe(), ["ppo", "evaluate"])
    monkeypatch.setattr(installed, "package_folder", lambda name: None)
    require_samplers(prepared_recipe(), ["prepare", "validate", "sft", "reward"])
    plain = {"sampling": {"engine": "transformers"}}
    require_samplers(prepared_recipe(ppo=plain, evaluate=plain), ["ppo", "evaluate"])
    with pytest.raises(
        BadInput,
        match=r"evaluate\.sampling\.engine is 'vllm', which is not installed here.* 'transformers'",
    ):
        require_samplers(prepared_recipe(ppo=plain), ["ppo", "evaluate"])


def test_a_given_reward_model_that_pads_with_its_end_of_turn_is_refused(have, tiny_model, tmp_path):
    recipe = prepared_recipe(model={"base": "b", "reward": str(tmp_path / "given")})
    tokenizer, scalar = load_tokenizer(tiny_model), load_scalar(tiny_model, new_head=True)
    save_model(scalar, tokenizer, tmp_path / "given")
    assert validate.spec(recipe, have)
    tokenizer.pad_token = tokenizer.eos_token
    save_model(scalar, tokenizer, tmp_path / "given")
    with pytest.raises(BadInput, match=r"given pads with '<eos>' .*resize_token_embeddings"):
        validate.spec(recipe, have)


@pytest.mark.parametrize("given", ["sft", "reward"])
def test_a_given_model_that_reads_over_the_borders_of_packed_rows_is_refused(
    have, tiny_model, tmp_path, given
):
    folder = shutil.copytree(tiny_model, tmp_path / "given")
    sizes = {"hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2}
    ids = {"vocab_size": 64, "eos_token_id": 1, "pad_token_id": 0}
    kind = AutoModelForCausalLM if given == "sft" else AutoModelForSequenceClassification
    kind.from_config(FalconConfig(**sizes, **ids, num_labels=1)).save_pretrained(folder)
    model = {"base": "b", given: str(folder)}
    assert validate.spec(prepared_recipe(model=model), have)
    with pytest.raises(BadInput, match=r"given: packing = true: .* over the border"):
        validate.spec(prepared_recipe(model=model, ppo={"packing": True}), have)


def test_a_given_sft_model_whose_router_learns_is_refused_with_shared_prompts(
    have, tiny_model, tmp_path
):
    folder = shutil.copytree(tiny_model, tmp_path / "given")
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"vocab_size": 64, "eos_token_id": 1, "pad_token_id": 0, "bos_token_id": None}
    experts = {"intermediate_size": 8, "num_key_value_heads": 1, "num_local_experts": 2}
    config = MixtralConfig(**sizes, **ids, **experts, experts_implementation="eager")
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    model = {"base": "b", "sft": str(folder)}
    sharing = {"packing": True, "share_prompts": True, "group_size": 2}
    with pytest.raises(BadInput, match=r"share_prompts = true: Mixtral.* balance its experts"):
        validate.spec(prepared_recipe(model=model, ppo=sharing), have)
    without = sharing | {"router_aux_loss_coef": 0.0}
    assert validate.spec(prepared_recipe(model=model, ppo=without), have)


def test_an_optimizer_on_disk_is_refused_where_temporary_files_are_in_memory(monkeypatch):
    recipe = prepared_recipe(ppo={"offload_optimizer": "disk"})
    monkeypatch.setattr(scratch, "_file_system", lambda folder: "tmpfs")
    require_disk(recipe, ["sft", "reward", "evaluate"])
    with pytest.raises(BadInput, match=r"in main memory \(tmpfs\); expected a folder on a disk"):
        require_disk(recipe, ["sft", "ppo"])
    monkeypatch.setattr(scratch, "_file_system", lambda folder: "ext4")
    require_disk(recipe, ["sft", "ppo"])
