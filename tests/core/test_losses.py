"""Each objective against hand-computed tables, slow loop oracles from the papers, and invariances."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from rlhf_core.losses import (
    adapt_beta,
    bradley_terry,
    cross_entropy,
    explained_variance,
    gae,
    policy_loss,
    token_entropy,
    token_logprobs,
    token_rewards,
    value_loss,
    whiten,
)

T, F = True, False


def test_token_logprobs_of_a_known_softmax():
    logits = tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0]]])
    expected = tensor([[math.log(0.75), math.log(0.8)]])
    torch.testing.assert_close(token_logprobs(logits, tensor([[1, 0]])), expected)


def test_entropy_of_a_uniform_and_of_a_certain_distribution():
    logits = tensor([[[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(token_entropy(logits), tensor([[math.log(4), 0.0]]), atol=1e-6, rtol=0)


def test_cross_entropy_counts_response_tokens_only():
    logprobs, mask = tensor([[-1.0, -2.0, -9.0], [-3.0, float("nan"), -9.0]]), tensor([[T, T, F], [T, F, F]])
    assert float(cross_entropy(logprobs, mask, 3)) == pytest.approx(2.0)


def test_bradley_terry_by_hand():
    # -log sigmoid(1 - 0) = 0.313262, -log sigmoid(0 - 2) = 2.126928; mean 1.220095
    assert float(bradley_terry(tensor([1.0, 0.0]), tensor([0.0, 2.0]), 2)) == pytest.approx(1.220095, abs=1e-6)


def test_token_rewards_put_the_score_at_the_last_real_token():
    kl, mask = tensor([[0.1, 0.2, 0.3], [0.5, 7.0, 7.0]]), tensor([[T, T, T], [T, F, F]])
    expected = tensor([[-0.01, -0.02, 1.97], [-1.05, 0.0, 0.0]])
    torch.testing.assert_close(token_rewards(tensor([2.0, -1.0]), kl, mask, beta=0.1), expected)


def test_gae_by_hand():
    # gamma .5, lambda .5: d3 = 2-1 = 1; d2 = 1+.5*1-.5 = 1; d1 = 0+.5*.5-.2 = .05; A3=1, A2=1.25, A1=.3625
    rewards, values = tensor([[0.0, 1.0, 2.0]]), tensor([[0.2, 0.5, 1.0]])
    advantages, returns = gae(rewards, values, tensor([[T, T, T]]), gamma=0.5, lam=0.5)
    torch.testing.assert_close(advantages, tensor([[0.3625, 1.25, 1.0]]))
    torch.testing.assert_close(returns, tensor([[0.5625, 1.75, 2.0]]))


@settings(deadline=None, max_examples=50)
@given(st.integers(1, 6), st.integers(0, 4), st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1))
def test_gae_equals_the_papers_sum_and_ignores_padding(length, padding, seed, gamma, lam):
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, Schulman et al. 2016, eq. 16."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, length, generator=generator, dtype=torch.float64)
    deltas = [rewards[t] + gamma * (values[t + 1] if t + 1 < length else 0) - values[t] for t in range(length)]
    expected = [sum((gamma * lam) ** i * deltas[t + i] for i in range(length - t)) for t in range(length)]
    junk = torch.full((padding,), 1e6, dtype=torch.float64)
    mask = tensor([[T] * length + [F] * padding])
    found, _ = gae(torch.cat([rewards, junk * 0])[None], torch.cat([values, junk])[None], mask, gamma=gamma, lam=lam)
    torch.testing.assert_close(found[0, :length], torch.stack(expected))
    assert not found[0, length:].any()


def test_policy_loss_table():
    # ratio, advantage -> min(r A, clip(r) A): (2, +1) -> 1.2; (2, -1) -> -2; (.5, +1) -> .5; (.5, -1) -> -.8
    new, old = tensor([[2.0, 2.0, 0.5, 0.5, 9.0]]).log(), torch.zeros(1, 5)
    advantages, mask = tensor([[1.0, -1.0, 1.0, -1.0, 5.0]]), tensor([[T, T, T, T, F]])
    assert float(policy_loss(new, old, advantages, mask, clip=0.2, denominator=4)) == pytest.approx(1.1 / 4)


def test_clipped_tokens_give_no_gradient_and_first_epoch_gradient_is_minus_advantage():
    new = tensor([[2.0, 1.0]]).log().requires_grad_()
    policy_loss(new, torch.zeros(1, 2), tensor([[1.0, 3.0]]), tensor([[T, T]]), clip=0.2, denominator=1).backward()
    torch.testing.assert_close(new.grad, tensor([[0.0, -3.0]]))


def test_value_loss_table():
    # (new, old, return): unclipped (.1, 0, 1): .81; clipped to .2 (1, 0, 1): max(0, .64) = .64
    new, old, returns = tensor([[0.1, 1.0, 5.0]]), torch.zeros(1, 3), tensor([[1.0, 1.0, 0.0]])
    assert float(value_loss(new, old, returns, tensor([[T, T, F]]), clip=0.2, denominator=2)) == pytest.approx(0.3625)


def test_whitened_values_have_zero_mean_and_unit_spread_over_real_tokens():
    mask = tensor([[T, T], [T, F]])
    result = whiten(tensor([[1.0, 2.0], [3.0, 99.0]]), mask)
    expected = math.sqrt(1.5)
    torch.testing.assert_close(result, tensor([[-expected, 0.0], [expected, 0.0]]))


@pytest.mark.parametrize(
    ("kl", "expected"), [(6.0, 0.1), (12.0, 0.1 * 1.02), (6.6, 0.1 * 1.01), (0.0, 0.1 * 0.98), (5.4, 0.1 * 0.99)]
)
def test_adaptive_beta_moves_at_most_a_fifth_a_horizon(kl, expected):
    assert adapt_beta(0.1, kl, target=6.0, horizon=1000, responses=100) == pytest.approx(expected)


def test_explained_variance_of_a_perfect_a_useless_and_a_constant_critic():
    returns, mask = tensor([[1.0, 2.0, 3.0]]), tensor([[T, T, T]])
    assert explained_variance(returns.clone(), returns, mask) == pytest.approx(1)
    assert explained_variance(torch.zeros(1, 3), returns, mask) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 3), mask) == 0


def test_losses_leave_their_inputs_untouched():
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(2, 3, generator=generator) for _ in range(4)]
    copies = [value.clone() for value in inputs]
    mask = tensor([[T, T, T], [T, T, F]])
    gae(inputs[0], inputs[1], mask, gamma=1.0, lam=0.95)
    token_rewards(tensor([1.0, 2.0]), inputs[0], mask, beta=0.1)
    policy_loss(*inputs[:3], mask, clip=0.2, denominator=5)
    value_loss(*inputs[:3], mask, clip=0.2, denominator=5)
    assert all(a.equal(b) for a, b in zip(inputs, copies, strict=True))
