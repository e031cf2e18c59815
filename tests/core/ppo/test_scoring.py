"""Scoring: the exact KL, at the temperature that replies are sampled at."""

import copy
import dataclasses

import pytest
import torch
from ppo_batch import experience, rollout
from torch import Tensor

from rlhf_core.batching.batch import collate
from rlhf_core.config import PPO, Evaluate, Sampling
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.evaluation.replies import Setup
from rlhf_core.evaluation.scoring import response_kl
from rlhf_core.modeling.models import inference
from rlhf_core.objectives.losses import tempered, token_logprobs
from rlhf_core.ppo.metrics import step_metrics


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_exact_kl_is_the_sum_over_the_vocabulary_at_the_samplers_temperature(models, temperature):
    config = PPO(kl_exact=True, sampling=Sampling(temperature=temperature), micro_batch_tokens=30)
    x = experience(models, config)
    mask_BR = x.batch.response_mask_BR
    with torch.no_grad():
        ours, theirs = (
            (model(x.batch) / temperature).log_softmax(-1) for model in (models[0], models[2])
        )
    expected_BR = (ours.exp() * (ours - theirs)).sum(-1).masked_fill(~mask_BR, 0.0)
    torch.testing.assert_close(x.outputs.exact_kl_BR, expected_BR, atol=1e-5, rtol=1e-4)
    found = step_metrics(x, config)
    assert found["ppo/kl_exact_per_response"] == pytest.approx(
        float(expected_BR.sum()) / 8, rel=1e-4
    )
    assert found["ppo/kl_exact_per_token"] == pytest.approx(
        float(expected_BR.sum() / mask_BR.sum()), rel=1e-4
    )


def test_measuring_the_exact_kl_changes_nothing_else(models):
    off, on = (experience(models, config) for config in (PPO(), PPO(kl_exact=True)))
    assert off.outputs.exact_kl_BR is None and "ppo/kl_exact_per_token" not in step_metrics(
        off, PPO()
    )
    for part in ("outputs", "reward_model", "rewards", "estimates"):
        with_kl, without = getattr(on, part), getattr(off, part)
        for field in dataclasses.fields(without):
            if field.name.endswith(("_B", "_BR", "_BF")) and field.name not in (
                "exact_kl_BR",
                "spread_B",
            ):
                assert getattr(with_kl, field.name).equal(getattr(without, field.name)), field.name


def test_evaluation_measures_kl_at_the_temperature_that_it_samples_at(models, tiny_model):
    """At another temperature log pi - log pi_ref of a sample is no estimate of the KL.

    It would not be that of the distributions sampled from.
    """
    sequences = rollout().sequences
    forward = [inference(copy.deepcopy(model), dtype="float32") for model in (models[0], models[2])]

    def found(temperature: float) -> Tensor:
        config = Evaluate(sampling=Sampling(temperature=temperature))
        kl_N, mean = response_kl(
            Setup(load_tokenizer(tiny_model), [], config, 1, "float32"), *forward, sequences
        )
        assert mean == pytest.approx(float(kl_N.mean()), rel=1e-5, abs=1e-5)
        return kl_N

    for temperature in (1.0, 0.5):
        batch = collate(sequences, 0)
        ours, theirs = (
            token_logprobs(tempered(model(batch), temperature), batch.response_ids_BR)
            for model in forward
        )
        expected = (ours - theirs).masked_fill(~batch.response_mask_BR, 0.0).sum(-1)
        torch.testing.assert_close(found(temperature), expected, atol=1e-5, rtol=1e-5)
    assert (found(1.0) - found(0.5)).abs().max() > 0.1
