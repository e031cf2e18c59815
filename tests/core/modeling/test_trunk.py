"""One trunk in several roles says what separate models say."""

from pathlib import Path

import pytest
import torch
from batches import BATCH

from rlhf_core.config import PPO, LoRA
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.errors import BadInput
from rlhf_core.modeling.lora import (
    add_adapter,
    merge_adapter,
    plain_tensors,
    require_origin,
    save_adapter,
    write_origin,
)
from rlhf_core.modeling.models import inference, load_policy, load_scalar, save_model
from rlhf_core.modeling.trunk import Trunk, load_trunk

LORA = LoRA(rank=4)


def shift(module: torch.nn.Module, seed: int = 2) -> None:
    """Move the weights that learn."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter += 0.05 * torch.randn_like(parameter)


@pytest.fixture(scope="module")
def reward(tiny_model, tmp_path_factory) -> Path:
    """A folder with a reward model trained by adapter, `model`, and its `adapter`.

    The adapter is on other maps than the policy's.
    """
    folder = tmp_path_factory.mktemp("reward")
    scalar = load_scalar(tiny_model, new_head=True, seed=3)
    add_adapter(scalar.model, LoRA(rank=2, target_modules=("q_proj", "up_proj")), seed=1)
    shift(scalar, seed=4)
    save_adapter(scalar.model, folder / "adapter")
    save_model(scalar, load_tokenizer(tiny_model), folder / "model")
    return folder


def trunk(path: Path, **parts) -> Trunk:
    """With an adapter that has learnt."""
    made = load_trunk(path, **parts)
    add_adapter(made.model, LORA, seed=1)
    shift(made)
    return made


@pytest.mark.parametrize(("dtype", "zero"), [("float32", 0), ("float32", 3), ("bfloat16", 0)])
def test_the_adapter_switched_off_is_the_copy_bit_by_bit(tiny_model, dtype, zero):
    actor, copy = (
        DeepSpeedEngine(trunk(tiny_model), PPO(lora=LORA, zero_stage=zero), dtype=dtype),
        inference(load_policy(tiny_model), dtype=dtype),
    )
    assert actor.infer(BATCH, "reference").equal(copy(BATCH))
    assert not actor.infer(BATCH).equal(copy(BATCH))


@torch.no_grad()
def test_a_reward_adapter_on_the_references_trunk_scores_as_the_merged_model(tiny_model, reward):
    merged = load_scalar(reward / "model")(BATCH)
    frozen, shared = (
        load_trunk(tiny_model, reward_adapter=reward / "adapter"),
        trunk(tiny_model, reward_adapter=reward / "adapter"),
    )
    for one in (frozen, shared):
        torch.testing.assert_close(one(BATCH, "reward"), merged, atol=1e-6, rtol=1e-5)
        assert one(BATCH, "reference").equal(load_policy(tiny_model)(BATCH))
    assert not torch.allclose(
        load_scalar(tiny_model, new_head=True, seed=3)(BATCH), merged, atol=1e-3
    )


@torch.no_grad()
def test_roles_do_not_disturb_each_other(tiny_model, reward):
    alone, shared = (
        trunk(tiny_model),
        trunk(tiny_model, reward_adapter=reward / "adapter", value_head=True),
    )
    shared.value_head.weight.zero_()
    learning = {name for name, p in shared.named_parameters() if p.requires_grad}
    for role in ("reward", "reference", "actor"):
        shared(BATCH, role)
    assert {name for name, p in shared.named_parameters() if p.requires_grad} == learning
    assert {name.replace(".default", "") for name in learning} == {
        *(name.replace(".default", "") for name, p in alone.named_parameters() if p.requires_grad),
        "value_head.weight",
    }
    ours, theirs = (dict(plain_tensors(one.model)) for one in (shared, alone))
    assert ours.keys() == theirs.keys() == load_policy(tiny_model).model.state_dict().keys()
    merge_adapter(shared.model)
    assert shared.model.state_dict().keys() == ours.keys()
    assert all(value.equal(ours[name]) for name, value in shared.model.state_dict().items())


def test_a_divided_trunk_says_the_same_in_each_role_and_learns_between(tiny_model, reward):
    """ZeRO 3 with the reference by adapter-off, and the reward model on the same trunk."""
    told = []
    for zero in (0, 3):
        made = trunk(tiny_model, reward_adapter=reward / "adapter", mapped=zero == 3)
        engine = DeepSpeedEngine(made, PPO(lora=LORA, zero_stage=zero), dtype="float32")
        for _ in range(2):
            told += [engine.infer(BATCH, role) for role in ("reference", "reward", "actor")]
            engine.backward(engine(BATCH).square().mean())
            told.append(torch.tensor(engine.step(1e-3)))
        told += [value.clone() for _, value in plain_tensors(made.model, engine.weights())]
    half = len(told) // 2
    torch.testing.assert_close(told[half:], told[:half], atol=1e-6, rtol=1e-5)
    assert told[0].equal(told[4]) and not told[2].equal(told[6])  # the reference stays


@torch.no_grad()
def test_one_forward_gives_the_logits_of_the_policy_and_the_values_of_its_trunk(tiny_model):
    both = load_trunk(tiny_model, value_head=True)
    assert not both(BATCH)[1].any()
    both.value_head.weight.copy_(load_scalar(tiny_model, new_head=True, seed=3).model.score.weight)
    logits_BRV, values_BR1 = both(BATCH)
    assert logits_BRV.equal(load_policy(tiny_model)(BATCH))
    torch.testing.assert_close(values_BR1, load_scalar(tiny_model, new_head=True, seed=3)(BATCH))
    assert both(BATCH, "critic").equal(values_BR1)


@pytest.mark.parametrize("zero_stage", [0, 2])
def test_the_critic_role_leaves_the_trunk_alone(tiny_model, zero_stage):
    both = load_trunk(tiny_model, value_head=True)
    both.value_head.weight.data.fill_(0.1)  # else nothing could reach the trunk
    engine = DeepSpeedEngine(
        both, PPO(critic="shared", zero_stage=zero_stage), dtype="float32", head=both.value_head
    )
    before = {name: value.clone() for name, value in both.state_dict().items()}
    engine.backward((engine(BATCH, "critic") - 1).square().sum())
    engine.step(1e-2, head_lr=1e-2)
    changed = {name for name, value in both.state_dict().items() if not value.equal(before[name])}
    assert changed == {"value_head.weight"}
    engine.backward((engine(BATCH)[1] - 1).square().sum())
    engine.step(0.0, head_lr=1e-2)
    assert all(
        value.equal(before[name])
        for name, value in both.state_dict().items()
        if name != "value_head.weight"
    )


def test_an_adapter_of_another_trunk_is_refused_with_both_digests(reward):
    write_origin(reward / "adapter", base="a" * 64, merged="b" * 64)
    require_origin(reward / "adapter", base="a" * 64, merged="b" * 64)
    with pytest.raises(
        BadInput,
        match=(
            r"trained on model aaaaaaaaaaaa.*expected the reference"
            r" cccccccccccc.*reward_trunk='own'"
        ),
    ):
        require_origin(reward / "adapter", base="c" * 64, merged="b" * 64)
    with pytest.raises(BadInput, match="does not say what"):
        require_origin(reward / "model", base="a" * 64, merged="b" * 64)
