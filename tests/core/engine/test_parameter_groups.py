"""Matrices decay, biases and norms do not, in every engine and ZeRO stage."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import Qwen2Config, Qwen2ForCausalLM

from rlhf_core.batching.batch import Batch, Sequence, collate
from rlhf_core.config import PPO, SFT, LoRA
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.engine.parameter_groups import decays, parameter_groups
from rlhf_core.modeling.lora import with_adapter
from rlhf_core.modeling.models import load_policy, load_scalar
from rlhf_core.modeling.trunk import load_trunk
from rlhf_core.objectives.losses import cross_entropy, token_logprobs

DECAY, RATE = 0.5, 0.1
KEPT = 1 - DECAY * RATE  # share of a matrix that one step without a gradient leaves


@pytest.fixture(scope="module")
def with_biases(tmp_path_factory) -> Path:
    """Make a Qwen2 of one layer: its attention has biases."""
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        pad_token_id=0,
        tie_word_embeddings=False,
    )
    model = Qwen2ForCausalLM(config)
    for parameter in model.parameters():  # no zeros: a decay would not show
        nn.init.uniform_(parameter, 0.1, 0.2)
    folder = tmp_path_factory.mktemp("qwen") / "model"
    model.save_pretrained(folder)
    return folder


def batch() -> Batch:
    return collate([Sequence([7, 9], [8, 10, 1]), Sequence([5], [6, 1])], 0)


def learn(engine: DeepSpeedEngine, *, weight: float = 1.0) -> None:
    """Take one step; with weight 0 every gradient is 0, and the step decays and does no more."""
    part = batch()
    logprobs_BR = token_logprobs(engine(part), part.response_ids_BR)
    engine.backward(weight * cross_entropy(logprobs_BR, part.response_mask_BR, 5))
    engine.step(RATE)


def weights(engine: DeepSpeedEngine) -> dict[str, Tensor]:
    return {name: value.detach().clone() for name, value in engine.weights()}


def is_bias_or_norm(name: str) -> bool:
    return name.endswith("bias") or "norm" in name


@pytest.mark.parametrize(
    "options",
    [
        {"zero_stage": 0},
        {"zero_stage": 1},
        {"zero_stage": 1, "offload_optimizer": True},
        {"zero_stage": 2},
        {"zero_stage": 3},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_step_without_gradient_shrinks_matrices_alone_at_every_zero_stage(with_biases, options):
    model = load_policy(with_biases)
    engine = DeepSpeedEngine(model, SFT(weight_decay=DECAY, **options), dtype="float32")
    before = weights(engine)
    learn(engine, weight=0.0)
    after = weights(engine)
    left = [name for name in after if is_bias_or_norm(name)]
    assert len(left) == 6 and len(after) == 15  # 3 biases and 3 norms
    for name, value in after.items():
        expected = before[name] * (1.0 if name in left else KEPT)
        torch.testing.assert_close(value, expected, msg=name)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_an_adapter_decays_and_the_frozen_model_does_not(with_biases, zero_stage):
    config = SFT(weight_decay=DECAY, zero_stage=zero_stage, lora=LoRA(rank=2))
    model = with_adapter(load_policy(with_biases), config.lora, seed=1)
    engine = DeepSpeedEngine(model, config, dtype="float32")
    before = weights(engine)
    learn(engine, weight=0.0)
    for name, value in weights(engine).items():
        factor = KEPT if ".lora_" in name else 1.0
        torch.testing.assert_close(value, before[name] * factor, msg=name)
    assert any(before[name].any() for name in before if ".lora_" in name)


def test_reward_models_critics_and_shared_trunks_decay_alike(with_biases):
    """The value head of a trunk keeps its own rate: a matrix, it decays by that rate."""
    critic = DeepSpeedEngine(
        load_scalar(with_biases, new_head=True), PPO(weight_decay=DECAY), dtype="float32"
    )
    before = weights(critic)
    critic.backward(critic(batch()).sum() * 0.0)
    critic.step(RATE)
    for name, value in weights(critic).items():
        factor = 1.0 if is_bias_or_norm(name) else KEPT
        torch.testing.assert_close(value, before[name] * factor, msg=name)
    trunk = load_trunk(with_biases, value_head=True)
    trunk.value_head.weight.data.fill_(1.0)
    engine = DeepSpeedEngine(
        trunk, PPO(weight_decay=DECAY, critic="shared"), dtype="float32", head=trunk.value_head
    )
    before = weights(engine)
    logits, values = engine(batch())
    engine.backward((logits.sum() + values.sum()) * 0.0)
    engine.step(RATE, head_lr=2 * RATE)
    for name, value in weights(engine).items():
        factor = 1.0 if is_bias_or_norm(name) else KEPT
        torch.testing.assert_close(value, before[name] * factor, msg=name)
    torch.testing.assert_close(
        trunk.value_head.weight, torch.full_like(trunk.value_head.weight, 1 - 2 * DECAY * RATE)
    )


@pytest.mark.parametrize("offload", [False, "disk"])
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_stage_with_decay_goes_on_from_its_checkpoint_as_if_not_interrupted(
    with_biases, zero_stage, offload
):
    config = SFT(weight_decay=DECAY, zero_stage=zero_stage, offload_optimizer=offload)
    whole = DeepSpeedEngine(load_policy(with_biases), config, dtype="float32")
    for _ in range(2):
        learn(whole)
    kept = {name: value.clone() for name, value in whole.state().items()}
    learn(whole)
    resumed = DeepSpeedEngine(load_policy(with_biases), config, dtype="float32")
    resumed.load_state(kept)
    learn(resumed)
    expected = weights(whole)
    assert all(value.equal(expected[name]) for name, value in weights(resumed).items())


def test_without_decay_all_weights_are_one_group_in_the_models_order(with_biases):
    """So gradient norms, which ZeRO adds up by group, keep every bit."""
    model = load_policy(with_biases)
    (group,) = parameter_groups(model, None, 0.0)
    assert len(group.weights) == 15
    assert all(a is b for a, b in zip(group.weights, model.parameters(), strict=True))
    assert len(parameter_groups(model, None, 0.1)) == 2


@pytest.mark.parametrize(
    ("name", "shape", "expected"),
    [
        ("model.embed_tokens.weight", (64, 32), True),
        ("model.layers.0.mlp.experts.gate_up_proj", (4, 32, 64), True),
        ("model.layers.0.mlp.experts.gate_up_proj_bias", (4, 64), False),  # GPT-OSS
        ("model.layers.0.self_attn.q_norm.weight", (4, 8), False),  # Cohere
        ("model.norm.weight", (32,), False),
        ("transformer.ln_f.weight", (32,), False),  # GPT-2
        ("model.layers.0.self_attn.sinks", (4,), False),
        ("score.weight", (1, 32), True),
        ("model.layers.0.q_proj.lora_A.default.weight", (2, 32), True),
    ],
)
def test_names_and_axes_tell_what_decays(name, shape, expected):
    assert decays(name, torch.zeros(shape)) is expected
