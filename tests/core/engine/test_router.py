"""The load-balancing loss of a mixture of experts is transformers' own, in every stage.

Padding counts nowhere, and microbatches are weighted by their tokens.
"""

from pathlib import Path

import pytest
import torch
from plain import no_functions
from ppo_batch import experience
from torch import Tensor
from transformers import (
    MixtralConfig,
    MixtralForCausalLM,
    OlmoeConfig,
    OlmoeForCausalLM,
    PreTrainedModel,
    Qwen2MoeConfig,
    Qwen2MoeForCausalLM,
)
from transformers.models.mixtral.modeling_mixtral import load_balancing_loss_func

from rlhf_core import dpo, sft
from rlhf_core.batching.batch import Batch, Sequence, TrainedSequence, collate
from rlhf_core.batching.packing import packed
from rlhf_core.config import DPO, PPO, SFT, Reward
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.engine.router import router_loss
from rlhf_core.errors import BadInput
from rlhf_core.metrics import require_declared
from rlhf_core.modeling.models import PolicyModel, load_policy, load_scalar
from rlhf_core.modeling.trunk import load_trunk
from rlhf_core.objectives.losses import cross_entropy, token_logprobs
from rlhf_core.ppo.scoring import Models
from rlhf_core.ppo.update import update
from rlhf_core.reward import steps
from rlhf_core.reward.labels import labels_of

SIZES = {
    "vocab_size": 64,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "num_experts_per_tok": 2,
}
EXPERTS = {"intermediate_size": 16, "num_experts": 4}
FAMILIES = {
    "mixtral": lambda: MixtralForCausalLM(
        MixtralConfig(**SIZES, intermediate_size=16, num_local_experts=4, router_aux_loss_coef=0.02)
    ),
    "qwen2_moe": lambda: Qwen2MoeForCausalLM(
        Qwen2MoeConfig(**SIZES, **EXPERTS, moe_intermediate_size=16, router_aux_loss_coef=0.02)
    ),
    "olmoe": lambda: OlmoeForCausalLM(
        OlmoeConfig(**SIZES, **EXPERTS, router_aux_loss_coef=0.02, clip_qkv=None)
    ),
}
SEQUENCES = [
    Sequence([7, 9, 11, 4], [8, 10, 1]),
    Sequence([5], [6, 1]),
    Sequence([12, 13], [14, 15, 16, 17, 1]),
    Sequence([20, 21], [22, 1]),
]
TOKENS = sum(map(len, SEQUENCES))


@pytest.fixture(scope="module", params=FAMILIES)
def family(request, tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param) / "model"
    FAMILIES[request.param]().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def mixtral(tmp_path_factory) -> Path:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("moe") / "model"
    FAMILIES["mixtral"]().save_pretrained(folder)
    return folder


def routers(model: PreTrainedModel) -> list[Tensor]:
    """Return the gradients of the routers, one per layer."""
    found = [
        p.grad
        for name, p in model.named_parameters()
        if name.endswith(("mlp.gate.weight", "router.weight")) and p.grad is not None
    ]
    assert len(found) == 2
    return found


def accumulate(engine: DeepSpeedEngine, parts: list[list[Sequence]]) -> None:
    """Run the backward passes of one SFT step in the given microbatches."""
    tokens = sum(len(s.response) for s in SEQUENCES)
    for part in parts:
        batch = collate(part, 0)
        logprobs_BR = token_logprobs(engine(batch), batch.response_ids_BR)
        loss = cross_entropy(logprobs_BR, batch.response_mask_BR, tokens)
        engine.backward(engine.module.with_router_loss(loss, TOKENS))


def transformers_loss(model: PreTrainedModel, batch: Batch) -> Tensor:
    """Return the whole loss of transformers: cross-entropy, and its own balancing loss."""
    labels_BL = batch.ids_BL.clone()
    labels_BL[:, : -batch.response_mask_BR.shape[1]] = -100
    labels_BL[~batch.mask_BL] = -100
    return model(
        input_ids=batch.ids_BL,
        attention_mask=batch.mask_BL.long(),
        position_ids=batch.position_ids_BL,
        labels=labels_BL,
        output_router_logits=True,
    ).loss


def test_an_sft_step_has_the_gradients_of_transformers_own_loss(family):
    """Every weight's, and the router's: with the coefficient of the model's config."""
    engine = DeepSpeedEngine(load_policy(family), SFT(), dtype="float32")
    accumulate(engine, [SEQUENCES])
    model = load_policy(family).model
    transformers_loss(model, collate(SEQUENCES, 0)).backward()
    for name, parameter in engine.module.model.named_parameters():
        expected = model.get_parameter(name).grad
        torch.testing.assert_close(parameter.grad, expected, atol=1e-7, rtol=1e-4, msg=name)
    plain = DeepSpeedEngine(load_policy(family), SFT(router_aux_loss_coef=0), dtype="float32")
    assert plain.module.router is None
    accumulate(plain, [SEQUENCES])
    for own, without in zip(routers(model), routers(plain.module.model), strict=True):
        assert (own - without).abs().max() > 1e-5


def balance(model: PolicyModel, batch: Batch) -> Tensor:
    """Return the balancing loss of one batch, by transformers."""
    output = model.model(
        input_ids=batch.ids_BL,
        attention_mask=batch.mask_BL.long(),
        position_ids=batch.position_ids_BL,
        output_router_logits=True,
    )
    return output.aux_loss


def test_padding_counts_nowhere_and_the_coefficient_is_the_recipes(family):
    model = load_policy(family)
    model.router = router_loss(model.model, 0.5)
    batch = collate(SEQUENCES, 0)
    wide = Batch(
        torch.nn.functional.pad(batch.ids_BL, (3, 2)),
        torch.nn.functional.pad(batch.mask_BL, (3, 2)),
        torch.nn.functional.pad(batch.response_mask_BR, (0, 2)),
    )
    found = []
    for one in (batch, wide):
        model(one)
        found.append(model.router.take(TOKENS, counts=True))
    torch.testing.assert_close(found[0], 0.5 * balance(model, batch))
    torch.testing.assert_close(*found)


def test_microbatches_are_weighted_by_their_tokens(mixtral):
    engine = DeepSpeedEngine(load_policy(mixtral), SFT(router_aux_loss_coef=3.0), dtype="float32")
    parts = [SEQUENCES[:1], SEQUENCES[1:]]
    accumulate(engine, parts)
    model, plain = load_policy(mixtral), load_policy(mixtral)
    for part in parts:
        share = sum(map(len, part)) / TOKENS
        (3.0 * share * balance(model, collate(part, 0))).backward()
    tokens = sum(len(s.response) for s in SEQUENCES)
    batch = collate(SEQUENCES, 0)
    cross_entropy(
        token_logprobs(plain(batch), batch.response_ids_BR), batch.response_mask_BR, tokens
    ).backward()
    for found, of_balance, of_text in zip(
        routers(engine.module.model), routers(model.model), routers(plain.model), strict=True
    ):
        torch.testing.assert_close(found, of_balance + of_text, atol=1e-7, rtol=1e-4)


def test_a_packed_row_has_no_padding_to_leave_out(mixtral):
    model = load_policy(mixtral)
    model.router = router_loss(model.model, None)
    model.packing = True
    model(collate(SEQUENCES, 0))
    row = packed(collate(SEQUENCES, 0))
    output = model.model(
        input_ids=row.ids_BL, position_ids=row.position_ids_BL, output_router_logits=True
    )
    torch.testing.assert_close(model.router.take(TOKENS, counts=True), 0.02 * output.aux_loss)


def test_a_pass_without_gradients_leaves_nothing_and_a_loss_is_taken_once(mixtral):
    model = load_policy(mixtral)
    model.router = router_loss(model.model, None)
    batch, loss = collate(SEQUENCES, 0), torch.tensor(1.0)
    model(batch)
    assert model.with_router_loss(loss, TOKENS) > 1
    assert model.with_router_loss(loss, TOKENS) == 1
    model(batch)
    with torch.no_grad():
        model(batch)
    assert model.with_router_loss(loss, TOKENS) == 1


def test_reward_models_and_critics_balance_their_experts_too(mixtral):
    engine = DeepSpeedEngine(
        load_scalar(mixtral, new_head=True), Reward(router_aux_loss_coef=2.0), dtype="float32"
    )
    batch = collate(SEQUENCES, 0)
    loss = engine(batch).sum() * 0.0
    engine.backward(engine.module.with_router_loss(loss, TOKENS))
    backbone = load_policy(mixtral).model.model
    output = backbone(
        input_ids=batch.ids_BL,
        attention_mask=batch.mask_BL.long(),
        position_ids=batch.position_ids_BL,
        output_router_logits=True,
    )
    (2.0 * load_balancing_loss_func(output.router_logits, 4, 2, batch.mask_BL.long())).backward()
    for found, expected in zip(routers(engine.module.model), routers(backbone), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-4)


def test_activation_checkpointing_changes_no_gradient_and_is_refused_where_there_is_none(mixtral):
    found = []
    for on in (False, True):
        config = SFT(activation_checkpointing=on, router_aux_loss_coef=1.0)
        engine = DeepSpeedEngine(load_policy(mixtral), config, dtype="float32")
        accumulate(engine, [SEQUENCES])
        found.append(routers(engine.module.model))
    for plain, checkpointed in zip(*found, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-7, rtol=1e-4)
    config = SFT(activation_checkpointing=True, zero_stage=3)
    with pytest.raises(BadInput, match=r"no gradient from their own loss \(coefficient 0.02\)"):
        DeepSpeedEngine(load_policy(mixtral), config, dtype="float32")


def test_a_model_without_experts_has_no_such_loss_and_none_may_be_asked_of_it(tiny_model):
    model = load_policy(tiny_model).model
    assert router_loss(model, None) is None and router_loss(model, 0.0) is None
    with pytest.raises(BadInput, match=r"coef is 0.1, but LlamaForCausalLM has no experts"):
        router_loss(model, 0.1)


# The stages


def sft_step(folder: Path, coefficient: float) -> tuple[PreTrainedModel, dict[str, float]]:
    config = SFT(router_aux_loss_coef=coefficient, micro_batch_tokens=12)
    engine = DeepSpeedEngine(load_policy(folder), config, dtype="float32")
    trained = [TrainedSequence(s.prompt, s.response, [True] * len(s.response)) for s in SEQUENCES]
    outcome = sft._accumulator(engine, trained, config, 0, seed=1)([0, 1, 2, 3], 1)
    return engine.module.model, outcome.metrics


def dpo_step(folder: Path, coefficient: float) -> tuple[PreTrainedModel, dict[str, float]]:
    config = DPO(router_aux_loss_coef=coefficient, micro_batch_tokens=12)
    engine = DeepSpeedEngine(load_policy(folder), config, dtype="float32")
    pairs = dpo.WeightedPairs(SEQUENCES, 1.0)
    outcome = dpo._accumulator(engine, pairs, torch.zeros(4), config, 0)([0, 1], 1)
    return engine.module.model, outcome.metrics


def reward_step(folder: Path, coefficient: float) -> tuple[PreTrainedModel, dict[str, float]]:
    config = Reward(router_aux_loss_coef=coefficient, micro_batch_tokens=12)
    engine = DeepSpeedEngine(load_scalar(folder, new_head=True), config, dtype="float32")
    pairs = steps.Comparisons(SEQUENCES, labels_of([{"meta": {}}] * 2, config))
    outcome = steps.accumulator(engine, pairs, config, 0)([0, 1], 1)
    return engine.module.model, outcome.metrics


@pytest.mark.parametrize("step", [sft_step, dpo_step, reward_step])
def test_a_stages_step_adds_the_coefficient_times_the_balancing_loss(mixtral, step):
    """The gradient is linear in the coefficient, and its part is that of transformers' loss."""
    (without, quiet), (with_one, metrics) = (step(mixtral, value) for value in (0.0, 1.0))
    budget = {"sft": [[1, 3], [0], [2]], "dpo": [[0, 1], [2, 3]], "reward": [[0, 1], [2, 3]]}
    model, mean = load_policy(mixtral), 0.0
    for rows in budget[step.__name__.partition("_")[0]]:
        part = [SEQUENCES[i] for i in rows]
        loss = sum(map(len, part)) / TOKENS * balance(model, collate(part, 0))
        loss.backward()
        mean += float(loss)
    for found, plain, expected in zip(*map(routers, (with_one, without, model.model)), strict=True):
        torch.testing.assert_close(found - plain, expected, atol=1e-6, rtol=1e-3)
    assert metrics["router_loss"] == pytest.approx(mean, rel=1e-5) and "router_loss" not in quiet
    assert 1.9 < mean < 3  # 2 experts per token: near balance


@pytest.mark.parametrize("critic", ["separate", "shared"])
def test_ppos_update_balances_the_experts_of_actor_and_critic(mixtral, critic):
    moved = []
    for coefficient in (0.0, 50.0):
        config = PPO(
            rollout_batch=8,
            minibatches=1,
            epochs=1,
            critic=critic,
            policy_lr=1e-3,
            critic_lr=1e-3,
            router_aux_loss_coef=coefficient,
            max_grad_norm=0.0,
        )
        if critic == "shared":
            trunk = load_trunk(mixtral, value_head=True)
            actor = DeepSpeedEngine(trunk, config, dtype="float32", head=trunk.value_head)
            engines = [actor]
        else:
            actor = DeepSpeedEngine(load_policy(mixtral), config, dtype="float32")
            scalar = load_scalar(mixtral, new_head=True, seed=3)
            engines = [actor, DeepSpeedEngine(scalar, config, dtype="float32")]
        made = experience(
            (load_policy(mixtral), load_scalar(mixtral, new_head=True), load_policy(mixtral)), PPO()
        )
        models = Models(actor, engines[1] if len(engines) > 1 else None, None, (), no_functions)
        metrics = update(models, made, config, step=1, seed=1)
        names = {"ppo/router_loss"} | ({"ppo/critic_router_loss"} if len(engines) > 1 else set())
        assert {name for name in metrics if "router" in name} == (names if coefficient else set())
        require_declared(metrics)
        moved.append([dict(engine.module.model.named_parameters()) for engine in engines])
    for plain, balanced in zip(*moved, strict=True):
        names = [name for name in plain if name.endswith(("mlp.gate.weight", "router.weight"))]
        assert len(names) == 2
        for name in names:
            assert not plain[name].equal(balanced[name])
