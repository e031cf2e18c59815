"""Divergences between policies, and between sampler and trainer."""

import math

import pytest
import torch
from torch import tensor

from rlhf_core.objectives.importance import mismatch, truncated_weights
from rlhf_core.objectives.kl import adapt_beta, exact_kl, token_kl

T, F = True, False
NAN = float("nan")


def test_estimators_by_hand():
    # d = log 2: k1 = 0.693147, k2 = 0.240227, k3 = 1/2 - 1 + 0.693147 = 0.193147; negative d: k3 =
    # 2 - 1 - 0.693147
    logprobs, ref = tensor([[math.log(2.0), 0.0, NAN]]), tensor([[0.0, math.log(2.0), 0.0]])
    mask = tensor([[T, T, F]])
    expected = {
        "k1": [0.693147, -0.693147, 0],
        "k2": [0.240227, 0.240227, 0],
        "k3": [0.193147, 0.306853, 0],
    }
    for estimator, values in expected.items():
        torch.testing.assert_close(
            token_kl(logprobs, ref, mask, estimator), tensor([values]), atol=1e-6, rtol=0
        )
    with pytest.raises(ValueError, match="k1, k2 or k3"):
        token_kl(logprobs, ref, mask, "k4")


def both(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, 1, 7, generator=generator, dtype=torch.float64).unbind()


def test_k1_and_k3_have_the_exact_kl_as_their_expectation_and_k2s_gradient_is_that_of_the_kl():
    """Expectations over the vocabulary by enumeration: sum_v pi(v) estimate(v)."""
    logits, ref_logits = both()
    logits.requires_grad_()
    mask = tensor([[T]])
    kl = exact_kl(logits, ref_logits, mask).sum()
    (true_gradient,) = torch.autograd.grad(kl, logits)
    assert float(kl.detach()) > 0.1
    logprobs, ref = logits.log_softmax(-1)[0], ref_logits.log_softmax(-1)[0]
    every = torch.ones_like(logprobs, dtype=torch.bool)
    for estimator in ("k1", "k3"):
        expectation = (logprobs.exp() * token_kl(logprobs, ref, every, estimator)).sum()
        torch.testing.assert_close(expectation, kl)
    # samples come from pi, the gradient is that of the term in the loss
    probability = logprobs.exp().detach()
    for estimator, expected in (("k1", torch.zeros_like(true_gradient)), ("k2", true_gradient)):
        loss = (probability * token_kl(logprobs, ref, every, estimator)).sum()
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True)
        torch.testing.assert_close(gradient, expected)


def test_exact_kl_of_impossible_tokens_and_of_padding():
    logits = tensor([[[0.0, 0.0, -math.inf], [NAN, NAN, NAN]]], requires_grad=True)
    ref_logits = tensor([[[0.0, 0.0, 0.0], [1.0, 2.0, 3.0]]])
    found = exact_kl(logits, ref_logits, tensor([[T, F]]))
    # 2 * 1/2 * log((1/2) / (1/3))
    torch.testing.assert_close(found, tensor([[math.log(3 / 2), 0.0]]))
    found.sum().backward()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(6.0, 0.1), (12.0, 0.1 * 1.02), (6.6, 0.1 * 1.01), (0.0, 0.1 * 0.98), (5.4, 0.1 * 0.99)],
)
def test_adaptive_beta_moves_at_most_a_fifth_a_horizon(kl, expected):
    assert adapt_beta(0.1, kl, target=6.0, horizon=1000, responses=100) == pytest.approx(expected)


def test_truncated_weights_by_hand():
    # ratios 2 and 1/2 and, by sequence, their product 1; cap 1.5
    trainer, sampler = (
        tensor([[2.0, 1.0, 1.0], [4.0, NAN, NAN]]).log(),
        tensor([[1.0, 2.0, NAN], [1.0, 1.0, 1.0]]).log(),
    )
    mask = tensor([[T, T, F], [T, F, F]])
    found = truncated_weights(trainer.requires_grad_(), sampler, mask, cap=1.5)
    torch.testing.assert_close(found, tensor([[1.5, 0.5, 0.0], [1.5, 0.0, 0.0]]))
    assert not found.requires_grad
    found = truncated_weights(trainer, sampler, mask, cap=1.5, level="sequence")
    torch.testing.assert_close(found, tensor([[1.0, 1.0, 0.0], [1.5, 0.0, 0.0]]))


def test_mismatch_by_hand():
    # log ratios trainer - sampler: log 2, -log 2; weights 2, 1/2: (2.5)^2 / (2 * 4.25); capped at
    # 1: 1.5^2 / (2 * 1.25)
    trainer, sampler = tensor([[2.0, 1.0, NAN]]).log(), tensor([[1.0, 2.0, 1.0]]).log()
    mask = tensor([[T, T, F]])
    found = mismatch(trainer, sampler, mask)
    assert found.mean_abs_diff == pytest.approx(
        math.log(2)
    ) and found.max_abs_diff == pytest.approx(math.log(2))
    assert found.kl == pytest.approx(0, abs=1e-7)
    assert found.kl_k3 == pytest.approx((2 - 1 - math.log(2) + 0.5 - 1 + math.log(2)) / 2)
    assert found.effective_share == pytest.approx(6.25 / 8.5)
    assert mismatch(trainer, sampler, mask, cap=1.0).effective_share == pytest.approx(0.9)


def test_mismatch_of_huge_ratios_does_not_overflow():
    found = mismatch(tensor([[0.0, 0.0]]), tensor([[-2000.0, 0.0]]), tensor([[T, T]]))
    assert found.effective_share == pytest.approx(0.5)


def test_mismatch_without_tokens_is_refused():
    with pytest.raises(ValueError, match="no real token"):
        mismatch(torch.zeros(1, 2), torch.zeros(1, 2), tensor([[F, F]]))
