"""Adapters on tiny real models: what learns, what is stored.

Merged weights give what the adapter gave.
"""

import shutil
from pathlib import Path

import pytest
import torch
from batches import BATCH
from peft import PeftModel
from safetensors.torch import load_file
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    LlamaConfig,
    LlamaForCausalLM,
)

from rlhf_core.config import PPO, SFT, LoRA, Reward
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Engine
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.errors import BadInput
from rlhf_core.modeling.lora import (
    add_adapter,
    has_adapter,
    merge_adapter,
    plain_tensors,
    save_adapter,
)
from rlhf_core.modeling.models import PolicyModel, finish, load_policy, load_scalar, save_model
from rlhf_core.objectives.losses import cross_entropy, token_logprobs


def adapted(folder, lora: LoRA | None = None, seed: int = 1) -> PolicyModel:
    policy = load_policy(folder)
    add_adapter(policy.model, lora or LoRA(rank=4), seed=seed)
    return policy


def moved(policy: PolicyModel, seed: int = 2) -> PolicyModel:
    """The adapter somewhere else than at its start, where it does nothing."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in policy.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)
    return policy


def step(engine: Engine, lr: float = 1e-2) -> None:
    logprobs_BR = token_logprobs(engine(BATCH), BATCH.response_ids_BR)
    engine.backward(cross_entropy(logprobs_BR, BATCH.response_mask_BR, 10.0))
    engine.step(lr)


@torch.no_grad()
def test_a_new_adapter_changes_no_number_and_its_start_depends_on_the_seed_alone(tiny_model):
    policy = adapted(tiny_model)
    assert policy(BATCH).equal(load_policy(tiny_model)(BATCH))
    first, same, other = (
        dict(adapted(tiny_model, seed=seed).named_parameters()) for seed in (1, 1, 2)
    )
    assert all(first[name].equal(same[name]) for name in first)
    assert not all(first[name].equal(other[name]) for name in first)
    assert policy.model.model.layers[0].mlp.up_proj.scaling == {"default": 4.0}  # alpha 16 / rank 4


def test_only_adapters_and_a_scalar_head_learn(tiny_model):
    policy, scalar = adapted(tiny_model), load_scalar(tiny_model, new_head=True, seed=3)
    add_adapter(scalar.model, LoRA(rank=4), seed=1)
    learning = [
        {name for name, p in module.named_parameters() if p.requires_grad}
        for module in (policy, scalar)
    ]
    # layers, linear maps, A and B
    assert all(".lora_" in name for name in learning[0]) and len(learning[0]) == 2 * 7 * 2
    assert learning[1] == learning[0] | {"model.score.weight"}
    sizes = sum(p.numel() for p in policy.parameters() if p.requires_grad)
    assert sizes == 2 * 4 * (4 * (64 + 64) + 3 * (64 + 128))


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_a_step_moves_the_adapter_only_and_a_checkpoint_of_it_goes_on_bit_by_bit(
    tiny_model, zero_stage
):
    config = SFT(lora=LoRA(rank=4, dropout=0.5), zero_stage=zero_stage)
    policy = adapted(tiny_model, config.lora)
    before = {name: p.clone() for name, p in policy.named_parameters()}
    engine = DeepSpeedEngine(policy, config, dtype="float32")
    step(engine)
    state, random = (
        {name: value.clone() for name, value in engine.state().items()},
        torch.get_rng_state(),
    )
    assert all((".lora_" in name) for name in state if name.startswith("weights/"))
    changed = {name for name, p in policy.named_parameters() if not p.equal(before[name])}
    # A's gradient is 0 while B is
    assert changed == {name for name in before if ".lora_B." in name}
    step(engine)
    resumed = adapted(tiny_model, config.lora, seed=9)
    other = DeepSpeedEngine(resumed, config, dtype="float32")
    other.load_state(state)
    torch.set_rng_state(random)
    step(other)
    assert all(p.equal(q) for p, q in zip(policy.parameters(), resumed.parameters(), strict=True))


def test_dropout_acts_in_training_only(tiny_model):
    engine = DeepSpeedEngine(
        moved(adapted(tiny_model, LoRA(rank=4, dropout=0.5))), SFT(), dtype="float32"
    )
    assert engine.infer(BATCH).equal(engine.infer(BATCH))
    assert not engine(BATCH).equal(engine(BATCH))
    assert engine.infer(BATCH).equal(engine.infer(BATCH))


@torch.no_grad()
def test_plain_tensors_are_those_of_peft_and_leave_the_model_alone(tiny_model, tmp_path):
    policy = moved(adapted(tiny_model))
    before = {name: value.clone() for name, value in policy.model.state_dict().items()}
    plain = {name: value.clone() for name, value in plain_tensors(policy.model)}
    assert all(value.equal(before[name]) for name, value in policy.model.state_dict().items())
    save_adapter(policy.model, tmp_path)
    theirs = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(tiny_model), tmp_path
    ).merge_and_unload()
    assert (
        plain.keys()
        == theirs.state_dict().keys()
        == load_policy(tiny_model).model.state_dict().keys()
    )
    assert all(value.equal(plain[name]) for name, value in theirs.state_dict().items())
    assert not plain["model.layers.0.mlp.up_proj.weight"].equal(
        before["model.layers.0.mlp.up_proj.base_layer.weight"]
    )
    told = policy(BATCH)
    merge_adapter(policy.model)
    assert all(value.equal(plain[name]) for name, value in policy.model.state_dict().items())
    torch.testing.assert_close(policy(BATCH), told, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_what_is_saved_is_a_plain_folder(tiny_model, tmp_path):
    policy = moved(adapted(tiny_model))
    told = policy(BATCH)
    save_model(policy, load_tokenizer(tiny_model), tmp_path / "model")
    assert (
        load_file(tmp_path / "model" / "model.safetensors").keys()
        == load_file(tiny_model / "model.safetensors").keys()
    )
    assert not has_adapter(policy.model) and not list((tmp_path / "model").glob("adapter*"))
    torch.testing.assert_close(load_policy(tmp_path / "model")(BATCH), told, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_reward_models_adapter_is_one_that_peft_loads(tiny_model, tmp_path):
    scalar = load_scalar(tiny_model, new_head=True, seed=3)
    add_adapter(scalar.model, LoRA(rank=4, target_modules=("q_proj", "mlp.down_proj")), seed=1)
    moved(scalar)
    save_adapter(scalar.model, tmp_path)
    base = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=1)
    theirs = PeftModel.from_pretrained(base, tmp_path).merge_and_unload()
    merge_adapter(scalar.model)
    ours = scalar.model.state_dict()
    assert all(value.equal(ours[name]) for name, value in theirs.state_dict().items())


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "q_project"])
def test_a_target_that_is_no_linear_map_of_the_backbone_is_refused_by_name(tiny_model, name):
    with pytest.raises(BadInput, match=rf"{name}.*expected one of down_proj, gate_proj"):
        adapted(tiny_model, LoRA(target_modules=("q_proj", name)))


def test_a_switch_turns_the_defaults_on_and_off():
    assert (
        SFT.model_validate({"lora": True}).lora == LoRA()
        and PPO.model_validate({"lora": {}}).lora == LoRA()
    )
    assert Reward.model_validate({"lora": False}).lora is None and SFT().lora is None


def test_dropout_in_ppo_is_refused_with_the_number():
    with pytest.raises(ValueError, match=r"lora.dropout 0.1 would move the probability ratio"):
        PPO(lora=LoRA(dropout=0.1))


@torch.no_grad()
def test_tied_weights_stay_tied(tiny_model, tmp_path):
    policy = load_policy(tiny_model)
    policy.model.config.tie_word_embeddings = True
    policy.model.tie_weights()
    shutil.copytree(tiny_model, tmp_path / "tied")
    save_model(policy, load_tokenizer(tiny_model), tmp_path / "tied")
    tied = moved(adapted(tmp_path / "tied"))
    plain = dict(plain_tensors(tied.model))
    assert plain["lm_head.weight"].equal(plain["model.embed_tokens.weight"])
    told = tied(BATCH)
    save_model(tied, load_tokenizer(tiny_model), tmp_path / "out")
    torch.testing.assert_close(load_policy(tmp_path / "out")(BATCH), told, atol=1e-5, rtol=1e-5)


@pytest.fixture(scope="module")
def wide_model(tmp_path_factory) -> Path:
    """Return a model saved in bfloat16, with weights so large that ZeRO 3 divides them.

    Weights of at most 100,000 numbers are on every rank.
    """
    folder = tmp_path_factory.mktemp("wide")
    sizes = {"hidden_size": 320, "intermediate_size": 352, "vocab_size": 64}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 2, "num_hidden_layers": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**sizes, **heads)).bfloat16().save_pretrained(folder)
    return folder


def trained(folder: Path, **options) -> DeepSpeedEngine:
    """The engine after two steps of an adapter; under ZeRO 3 the weights come from the files."""
    config = SFT(lora=LoRA(rank=4), **options)
    policy = load_policy(folder, mapped=config.zero_stage == 3)
    add_adapter(policy.model, config.lora, seed=1)
    engine = DeepSpeedEngine(policy, config, dtype="float32")
    for _ in range(2):
        step(engine)
    return engine


def merged(engine: Engine) -> dict[str, Tensor]:
    named = plain_tensors(engine.module.model, engine.weights())
    return {name: value.detach().clone() for name, value in named}


@pytest.mark.parametrize("checkpointing", [False, True])
def test_zero_3_trains_an_adapter_as_zero_0_and_leaves_the_divided_weights(
    wide_model, checkpointing
):
    whole = trained(wide_model, zero_stage=0)
    divided = trained(wide_model, zero_stage=3, activation_checkpointing=checkpointing)
    weight = divided.module.model.model.layers[0].self_attn.q_proj.base_layer.weight
    assert weight.numel() == 0 and weight.ds_numel == 320 * 320 and not weight.requires_grad
    expected, found = merged(whole), merged(divided)
    assert expected.keys() == found.keys() == load_policy(wide_model).model.state_dict().keys()
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    files, now = load_file(wide_model / "model.safetensors"), dict(divided.weights())
    for name, value in files.items():
        owner, _, kind = name.rpartition(".")
        plain = now[name] if name in now else now[f"{owner}.base_layer.{kind}"]
        assert plain.equal(value.float())
    assert any(not found[name].equal(value.float()) for name, value in files.items())


def test_an_adapter_is_merged_into_divided_weights_as_it_is_streamed(wide_model):
    """Save what is measured: without an adapter, W + B A in the ranks' shares."""
    divided = trained(wide_model, zero_stage=3)
    expected, told = merged(divided), divided.infer(BATCH)
    adapter = divided.learning_weights()
    assert {value.shape for name, value in adapter.items() if ".lora_A." in name} == {
        (4, 320),
        (4, 352),
    }
    finish(divided, dtype="float32")
    assert not has_adapter(divided.module.model)
    torch.testing.assert_close(divided.infer(BATCH), told, atol=1e-5, rtol=1e-5)
    saved = divided.whole_weights()
    assert saved.keys() == expected.keys()
    assert all(value.equal(expected[name]) for name, value in saved.items())


def test_a_checkpoint_of_a_divided_model_holds_its_adapter_alone_and_goes_on_bit_by_bit(wide_model):
    first = trained(wide_model, zero_stage=3)
    learning = sum(value.numel() for value in first.learning_weights().values())
    state = {name: value.clone() for name, value in first.state().items()}
    assert (
        sum(value.numel() for name, value in state.items() if name.endswith("weights")) == learning
    )
    step(first)
    second = trained(wide_model, zero_stage=3)
    step(second)  # somewhere else
    second.load_state(state)
    step(second)
    expected = merged(first)
    assert all(value.equal(expected[name]) for name, value in merged(second).items())


@torch.no_grad()
def test_an_adapter_on_weights_of_bfloat16_files_is_drawn_in_float32(wide_model):
    plain, mapped = load_policy(wide_model), load_policy(wide_model, mapped=True)
    for policy in (plain, mapped):
        add_adapter(policy.model, LoRA(rank=4), seed=1)
    drawn, expected = dict(mapped.named_parameters()), dict(plain.named_parameters())
    types = {name: value.dtype for name, value in drawn.items()}
    assert {types[name] for name in types if ".lora_" in name} == {torch.float32}
    assert {types[name] for name in types if ".lora_" not in name} == {torch.bfloat16}
    assert all(value.float().equal(expected[name]) for name, value in drawn.items())
