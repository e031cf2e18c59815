"""Gradients in closed form are those of autograd, and take less memory."""

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from rlhf_core.objectives.closed_form import logprobs_and_entropy
from rlhf_core.objectives.losses import tempered, token_entropy, token_logprobs

T, V = 5, 11
GENERATOR = torch.Generator().manual_seed(3)
LOGITS = 4 * torch.randn(T, V, generator=GENERATOR, dtype=torch.float64)
IDS = torch.tensor([0, 10, 3, 3, 7])
WEIGHTS = torch.randn(2, T, generator=GENERATOR, dtype=torch.float64)


def plain(logits_TV: Tensor, *, temperature: float, entropy: bool) -> tuple[Tensor, Tensor | None]:
    logits_TV = tempered(logits_TV, temperature)
    return token_logprobs(logits_TV, IDS), token_entropy(logits_TV) if entropy else None


def with_gradient(function, logits_TV: Tensor, **options) -> tuple[Tensor, ...]:
    logits_TV = logits_TV.clone().requires_grad_()
    logprobs_T, entropy_T = function(logits_TV, **options)
    loss = (WEIGHTS[0] * logprobs_T).sum()
    if entropy_T is not None:
        loss = loss + (WEIGHTS[1] * entropy_T).sum()
    loss.backward()
    found = (logprobs_T, logits_TV.grad) + (() if entropy_T is None else (entropy_T,))
    return tuple(x.detach() for x in found)


def closed(logits_TV: Tensor, **options) -> tuple[Tensor, Tensor | None]:
    return logprobs_and_entropy(logits_TV, IDS, **options)


@pytest.mark.parametrize("entropy", [False, True])
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_numbers_and_gradients_are_autograds(temperature, entropy):
    options = {"temperature": temperature, "entropy": entropy}
    ours, theirs = (with_gradient(function, LOGITS, **options) for function in (closed, plain))
    torch.testing.assert_close(ours, theirs, atol=1e-12, rtol=1e-12)
    assert len(ours) == 2 + entropy


def test_gradients_are_those_of_small_differences():
    logits_TV = LOGITS.clone().requires_grad_()
    assert gradcheck(lambda x: closed(x, temperature=0.7, entropy=True), logits_TV)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_half_precision_logits_are_widened_and_get_a_gradient_of_their_type(temperature):
    half, options = LOGITS.bfloat16(), {"temperature": temperature, "entropy": True}
    ours = with_gradient(closed, half, **options)
    theirs = with_gradient(plain, half, **options)
    assert ours[0].dtype == torch.float32 and ours[1].dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=1e-2)  # autograd rounds in between


def test_logits_stay_as_they_are_in_both_passes():
    logits_TV = LOGITS.clone().requires_grad_()
    logprobs_T, entropy_T = closed(logits_TV, entropy=True)
    (logprobs_T.sum() + entropy_T.sum()).backward()
    assert logits_TV.equal(LOGITS)


def test_extreme_logits_give_finite_numbers_and_gradients():
    logits_TV = torch.full((T, V), -1e4).index_fill(1, torch.tensor([3]), 1e4)
    for value in with_gradient(closed, logits_TV, entropy=True):
        assert value.isfinite().all()
