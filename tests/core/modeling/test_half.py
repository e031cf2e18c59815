"""Weights in bfloat16: what is rounded, what stays, and what a saved folder says."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    DeepseekV3Config,
    Qwen2MoeConfig,
)

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import LoRA
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.half import round_to_bfloat16, saved_dtype
from rlhf_core.modeling.lora import add_adapter
from rlhf_core.modeling.models import (
    PolicyModel,
    finish_model,
    inference,
    load_policy,
    load_scalar,
    save_model,
)

BATCH = collate([Sequence([5, 6, 7], [8, 9, 1]), Sequence([10], [11, 1])], 0)


def stored(folder: Path) -> dict[str, str]:
    """Return the number type of each tensor in a folder's files."""
    found = {}
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_slice(name).get_dtype() for name in sorted(file.keys())}
    return found


@pytest.mark.parametrize("tied", [False, True])
def test_matrices_in_bfloat16_give_what_autocast_gives_and_embeddings_stay(tiny_model, tied):
    models = [load_policy(tiny_model) for _ in range(2)]
    for one in models:
        one.model.config.tie_word_embeddings = tied
        one.model.tie_weights()
    kept, rounded = (
        inference(one, dtype="bfloat16", weights=weights)
        for one, weights in zip(models, ("float32", None), strict=True)
    )
    assert kept(BATCH).equal(rounded(BATCH))
    kinds = {name: p.dtype for name, p in models[1].model.named_parameters()}
    half = {name for name, kind in kinds.items() if kind == torch.bfloat16}
    assert half == {
        name
        for name in kinds
        if name.endswith("proj.weight") or (name == "lm_head.weight" and not tied)
    }
    assert {p.dtype for p in models[0].parameters()} == {torch.float32}


def test_a_frozen_reward_model_keeps_its_head_in_float32(tiny_model):
    scalar = load_scalar(tiny_model, new_head=True, seed=2)
    scores_BR1 = inference(scalar, dtype="float32", weights="bfloat16")(BATCH)
    assert scalar.model.score.weight.dtype == scores_BR1.dtype == torch.float32
    assert scalar.model.model.layers[0].mlp.up_proj.weight.dtype == torch.bfloat16


def test_a_policy_saved_in_bfloat16_has_half_the_bytes_and_the_rounded_weights(
    tiny_model, tmp_path
):
    policy = load_policy(tiny_model)
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    save_model(policy, load_tokenizer(tiny_model), tmp_path / "half", dtype="bfloat16")
    assert {*stored(tmp_path / "half").values()} == {"BF16"}
    assert json.loads((tmp_path / "half/config.json").read_text())["dtype"] == "bfloat16"
    sizes = [
        sum(f.stat().st_size for f in p.glob("*.safetensors"))
        for p in (tmp_path / "half", tiny_model)
    ]
    assert sizes[0] < 0.55 * sizes[1]
    read = load_policy(tmp_path / "half").model.state_dict()
    assert all(read[name].equal(tensor.bfloat16().float()) for name, tensor in before.items())
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "half", dtype="auto")
    assert plain.dtype == torch.bfloat16


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)])
def test_a_finished_model_gives_the_numbers_of_the_saved_one(tiny_model, tmp_path, lora):
    """A stage measures it before or after it is saved: the gate is about the saved bytes."""
    policy = load_policy(tiny_model)
    if lora:
        add_adapter(policy.model, lora, seed=1)
        with torch.no_grad():
            for name, parameter in policy.named_parameters():
                if "lora_B" in name:
                    parameter.fill_(0.05)
    with torch.no_grad():
        trained = policy(BATCH)
        finish_model(policy, dtype="bfloat16")
        measured = policy(BATCH)
        save_model(policy, load_tokenizer(tiny_model), tmp_path / "half", dtype="bfloat16")
        assert policy(BATCH).equal(measured) and not measured.equal(trained)
        assert load_policy(tmp_path / "half")(BATCH).equal(measured)


MIXTURE = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "moe_intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "num_experts_per_tok": 2,
}


@pytest.mark.parametrize(
    "config",
    [
        DeepseekV3Config(
            **MIXTURE,
            n_routed_experts=4,
            n_group=2,
            topk_group=1,
            first_k_dense_replace=0,
            q_lora_rank=8,
            kv_lora_rank=8,
            qk_rope_head_dim=4,
            qk_nope_head_dim=4,
            v_head_dim=8,
        ),
        Qwen2MoeConfig(**MIXTURE, num_experts=4, shared_expert_intermediate_size=8),
    ],
    ids=lambda config: config.model_type,
)
def test_routers_and_gates_of_experts_are_measured_as_they_are_saved(tiny_model, tmp_path, config):
    """A correction bias is a buffer and stays; a gate of one output is no head: it is rounded."""
    tokenizer = load_tokenizer(tiny_model)
    config.vocab_size = len(tokenizer)
    torch.manual_seed(0)
    policy = PolicyModel(AutoModelForCausalLM.from_config(config))
    for name, buffer in policy.model.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(torch.randn_like(buffer))
    finish_model(policy, dtype="bfloat16")
    measured = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    save_model(policy, tokenizer, tmp_path, dtype="bfloat16")
    read = load_policy(tmp_path).model.state_dict()
    assert [name for name, tensor in measured.items() if not read[name].equal(tensor)] == []


def test_a_scalar_head_stays_float32_and_loads_bit_for_bit(tiny_model, tmp_path):
    scalar = load_scalar(tiny_model, new_head=True, seed=2)
    head = scalar.model.score.weight.detach().clone()
    save_model(scalar, load_tokenizer(tiny_model), tmp_path / "half", dtype="bfloat16")
    kinds = stored(tmp_path / "half")
    assert kinds.pop("score.weight") == "F32" and {*kinds.values()} == {"BF16"}
    assert load_scalar(tmp_path / "half").model.score.weight.equal(head)
    AutoModelForSequenceClassification.from_pretrained(tmp_path / "half")


def test_weights_given_by_name_are_rounded_and_a_tied_one_is_stored_once(tiny_model, tmp_path):
    policy = load_policy(tiny_model)
    policy.model.config.tie_word_embeddings = True
    policy.model.tie_weights()
    whole = dict(policy.model.state_dict())
    save_model(
        policy, load_tokenizer(tiny_model), tmp_path / "half", weights=whole, dtype="bfloat16"
    )
    assert "lm_head.weight" not in stored(tmp_path / "half")
    read = load_policy(tmp_path / "half").model
    assert read.lm_head.weight.equal(whole["lm_head.weight"].bfloat16().float())


def test_each_rank_rounds_its_shard_of_a_divided_weight():
    module = torch.nn.Linear(3, 2, bias=False)
    shard = torch.nn.Parameter(torch.tensor([1.0001, 2.0]))
    module.weight.ds_tensor = shard
    round_to_bfloat16(module)
    assert shard.tolist() == [1.0, 2.0]
    assert module.weight.data.equal(module.weight.data.bfloat16().float())


def test_the_type_is_the_recipes_or_that_of_the_model_that_training_starts_from(
    tiny_model, tmp_path
):
    save_model(load_policy(tiny_model), load_tokenizer(tiny_model), tmp_path, dtype="bfloat16")
    cases = [
        (tiny_model, "bfloat16", None, "float32"),
        (tmp_path, "bfloat16", None, "bfloat16"),
        (tmp_path, "float32", None, "float32"),  # small steps in float32 would be lost
        (tmp_path, "bfloat16", "float32", "float32"),
        (tiny_model, "float32", "bfloat16", "bfloat16"),
    ]
    for start, computed, wanted, expected in cases:
        assert saved_dtype(start, computed=computed, wanted=wanted) == expected
