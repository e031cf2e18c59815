"""Options of how a stage steps change memory and speed, not the numbers.

DeepSpeed in this process, one rank.
"""

import random

import pytest

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.config import SFT
from rlhf_core.engine import deepspeed
from rlhf_core.engine.deepspeed import DeepSpeedEngine
from rlhf_core.modeling.models import load_policy
from rlhf_core.objectives.losses import cross_entropy, token_logprobs

STEPS = 3


def steps(folder, dtype: str = "float32", **options) -> list[float]:
    """Loss and gradient norm of each step, two microbatches of unequal length each."""
    engine, rng, found = (
        DeepSpeedEngine(load_policy(folder), SFT(**options), dtype=dtype),
        random.Random(1),
        [],
    )
    sequences = [
        Sequence(rng.choices(range(6, 60), k=3), rng.choices(range(6, 60), k=length))
        for length in (2, 9, 4, 7)
    ]
    tokens = sum(len(sequence.response) for sequence in sequences)
    for _ in range(STEPS):
        total = 0.0
        for part in (sequences[:3], sequences[3:]):
            batch = collate(part, 0)
            loss = cross_entropy(
                token_logprobs(engine(batch), batch.response_ids_BR), batch.response_mask_BR, tokens
            )
            engine.backward(loss)
            total += loss.item()
        found += [total, engine.step(1e-2)]
    return found


@pytest.fixture(scope="module")
def plain(tiny_model) -> list[float]:
    found = steps(tiny_model)
    assert found[-2] < found[0] - 0.1  # it learns
    return found


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": True},
        {"activation_checkpointing": True, "zero_stage": 2},
        {"zero_stage": 1, "offload_optimizer": True},
        {"zero_stage": 2, "offload_optimizer": True},
    ],
)
def test_checkpointing_and_offloading_change_neither_loss_nor_gradient(tiny_model, plain, options):
    assert steps(tiny_model, **options) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize("zero_stage", [1, 2, 3])
def test_weights_larger_than_a_gradient_bucket_take_the_same_steps(
    tiny_model, plain, zero_stage, monkeypatch
):
    largest = max(weight.numel() for weight in load_policy(tiny_model).parameters())
    monkeypatch.setattr(deepspeed, "REDUCE_BUCKET", largest // 4)
    assert steps(tiny_model, zero_stage=zero_stage) == pytest.approx(plain, abs=1e-5)


@pytest.mark.parametrize(("on", "passes"), [(False, 1), (True, 2)])
def test_checkpointing_runs_a_layer_again_in_the_backward_pass(tiny_model, on, passes):
    model, calls = load_policy(tiny_model), []
    engine = DeepSpeedEngine(model, SFT(activation_checkpointing=on), dtype="float32")
    model.model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: calls.append(1))
    batch = collate([Sequence([7], [8, 9])], 0)
    engine.backward(token_logprobs(engine(batch), batch.response_ids_BR).sum())
    assert len(calls) == passes


def test_bfloat16_products_move_the_loss_by_their_rounding_only(tiny_model, plain):
    found = steps(tiny_model, dtype="bfloat16")
    assert found != plain and found == pytest.approx(plain, rel=0.05)


@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_moments_on_disk_give_the_numbers_of_those_in_memory(tiny_model, zero_stage):
    in_memory = {"zero_stage": zero_stage, "offload_optimizer": zero_stage > 0}
    on_disk = in_memory | {"offload_optimizer": "disk"}
    assert steps(tiny_model, **on_disk) == steps(tiny_model, **in_memory)
