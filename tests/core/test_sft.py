"""The held-out losses of supervised fine-tuning, by sequence, and the interval of their fall."""

import numpy as np
import pytest
import torch

from rlhf_core.batching.batch import TrainedSequence
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import inference, load_policy
from rlhf_core.sft import HeldoutLosses, fall_interval, heldout_losses


def losses(loss_N: torch.Tensor, tokens_N: torch.Tensor) -> HeldoutLosses:
    return HeldoutLosses(float(loss_N.sum() / tokens_N.sum()), loss_N, tokens_N)


def test_the_losses_of_the_sequences_add_up_to_the_mean_however_they_are_batched(tiny_model):
    generator = torch.Generator().manual_seed(1)
    sequences = []
    for size in (3, 7, 5, 2, 9):
        ids = torch.randint(5, 60, (size + 2,), generator=generator).tolist()
        trained = [True] * (size - 1) + [False]
        sequences.append(TrainedSequence(ids[:2], ids[2:], trained))
    forward = inference(load_policy(tiny_model), dtype="float32")
    pad_id = load_tokenizer(tiny_model).pad_token_id
    whole, split = (heldout_losses(forward, sequences, pad_id, budget) for budget in (1000, 12))
    assert whole.tokens_N.tolist() == [2, 6, 4, 1, 8]
    assert float(whole.loss_N.sum()) / 21 == pytest.approx(whole.mean, rel=1e-6)
    assert torch.allclose(whole.loss_N, split.loss_N, rtol=1e-5)
    alone = heldout_losses(forward, sequences[1:2], pad_id, 1000)
    assert alone.mean * 6 == pytest.approx(float(whole.loss_N[1]), rel=1e-5)


def test_the_interval_of_the_fall_is_that_of_paired_sequences():
    generator = torch.Generator().manual_seed(2)
    tokens_N = torch.full((400,), 10)
    before_N = torch.randn(400, generator=generator, dtype=torch.float64) * 5 + 40
    fall_N = torch.randn(400, generator=generator, dtype=torch.float64) + 1  # nats per sequence
    found = fall_interval(losses(before_N, tokens_N), losses(before_N - fall_N, tokens_N))
    assert found is not None
    mean, error = float(fall_N.mean()) / 10, float(fall_N.std()) / 10 / 20
    expected = (mean - 1.96 * error, mean + 1.96 * error)  # not 5 times as wide, as unpaired ones
    assert found == pytest.approx(expected, abs=0.1 * error)


def test_answers_to_one_prompt_say_as_much_as_one_of_them_if_they_are_alike():
    """Bug: four equal answers per prompt made the interval half as wide."""
    generator = torch.Generator().manual_seed(3)
    one_N = torch.randn(100, generator=generator, dtype=torch.float64) + 1
    four_N, tokens_N = one_N.repeat_interleave(4), torch.full((400,), 10)
    prompts = np.repeat(np.arange(100), 4)
    four = HeldoutLosses(0.0, four_N, tokens_N, prompts)
    none = HeldoutLosses(0.0, torch.zeros_like(four_N), tokens_N, prompts)
    alone = fall_interval(losses(one_N, tokens_N[:100]), losses(one_N * 0, tokens_N[:100]))
    assert fall_interval(four, none) == pytest.approx(alone, rel=1e-9)


def test_the_sequences_of_one_prompt_are_one_cluster(tiny_model):
    sequences = [
        TrainedSequence([5, 6], [7 + i, 8], [True, True])
        if i < 2
        else TrainedSequence([5, 7], [7 + i, 8], [True, True])
        for i in range(3)
    ]
    forward = inference(load_policy(tiny_model), dtype="float32")
    found = heldout_losses(forward, sequences, load_tokenizer(tiny_model).pad_token_id, 1000)
    assert found.clusters is not None and found.clusters.tolist() == [0, 0, 1]


def test_too_few_sequences_or_prompts_have_no_interval():
    few = losses(torch.ones(9, dtype=torch.float64), torch.ones(9))
    assert fall_interval(few, few) is None
    prompts = np.arange(20) % 9
    shared = HeldoutLosses(1.0, torch.ones(20, dtype=torch.float64), torch.ones(20), prompts)
    assert fall_interval(shared, shared) is None
