"""Rewards, advantages and whitening against hand-computed tables and the papers' sums as loops."""

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor

from rlhf_core.objectives.advantages import (
    at_tokens,
    discounted_returns,
    explained_variance,
    gae,
    grpo_advantages,
    masked_moments,
    merge_moments,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    standardise,
    token_rewards,
    whiten,
)

T, F = True, False
NAN = float("nan")


def test_token_rewards_put_the_score_at_the_last_real_token():
    kl, mask = tensor([[0.1, 0.2, 0.3], [0.5, 7.0, 7.0]]), tensor([[T, T, T], [T, F, F]])
    expected = tensor([[-0.01, -0.02, 1.97], [-1.05, 0.0, 0.0]])
    torch.testing.assert_close(token_rewards(tensor([2.0, -1.0]), kl, mask, beta=0.1), expected)


def test_a_row_without_tokens_gets_no_reward():
    found = token_rewards(
        tensor([2.0, 3.0]), tensor([[NAN, NAN], [0.0, NAN]]), tensor([[F, F], [T, F]]), beta=0.1
    )
    assert found.tolist() == [[0.0, 0.0], [3.0, 0.0]]


def test_gae_by_hand():
    # gamma .5, lambda .5: d3 = 2-1 = 1; d2 = 1+.5*1-.5 = 1; d1 = 0+.5*.5-.2 = .05; A3=1, A2=1.25,
    # A1=.3625
    rewards, values = tensor([[0.0, 1.0, 2.0]]), tensor([[0.2, 0.5, 1.0]])
    advantages, returns = gae(rewards, values, tensor([[T, T, T]]), gamma=0.5, lam=0.5)
    torch.testing.assert_close(advantages, tensor([[0.3625, 1.25, 1.0]]))
    torch.testing.assert_close(returns, tensor([[0.5625, 1.75, 2.0]]))


def test_gae_of_a_cut_response_goes_on_with_the_value_at_the_cut_by_hand():
    """With gamma .5 and lambda .5, row 1 ended; row 2 is the same but cut at a state of value 4.

    d3 = 2 + .5*4 - 1 = 3; A3 = 3; A2 = 1 + .25*3 = 1.75; A1 = .05 + .25*1.75 = .4875
    Row 3, cut after one token at a state of value -2: A = 1 + .5*-2 - .5 = -.5
    """
    rewards = tensor([[0.0, 1.0, 2.0], [0.0, 1.0, 2.0], [1.0, NAN, NAN]])
    values = tensor([[0.2, 0.5, 1.0], [0.2, 0.5, 1.0], [0.5, NAN, NAN]])
    mask = tensor([[T, T, T], [T, T, T], [T, F, F]])
    end = tensor([0.0, 4.0, -2.0])
    advantages, returns = gae(rewards, values, mask, gamma=0.5, lam=0.5, end_values_B=end)
    expected = tensor([[0.3625, 1.25, 1.0], [0.4875, 1.75, 3.0], [-0.5, 0.0, 0.0]])
    torch.testing.assert_close(advantages, expected)
    torch.testing.assert_close(returns, expected + values.nan_to_num())
    unbootstrapped = gae(rewards, values, mask, gamma=0.5, lam=0.5)[0]
    assert unbootstrapped[0].equal(advantages[0]) and unbootstrapped[2, 0] == 0.5


@settings(deadline=None, max_examples=50)
@given(
    st.integers(1, 6), st.integers(0, 4), st.integers(0, 10_000), st.floats(0, 1), st.floats(0, 1)
)
def test_gae_equals_the_papers_sum_and_ignores_padding(length, padding, seed, gamma, lam):
    """A_t = sum_l (gamma lambda)^l delta_{t+l}, Schulman et al. 2016, eq. 16."""
    generator = torch.Generator().manual_seed(seed)
    rewards, values = torch.randn(2, length, generator=generator, dtype=torch.float64)
    deltas = [
        rewards[t] + gamma * (values[t + 1] if t + 1 < length else 0) - values[t]
        for t in range(length)
    ]
    expected = [
        sum((gamma * lam) ** i * deltas[t + i] for i in range(length - t)) for t in range(length)
    ]
    junk = torch.full((padding,), NAN, dtype=torch.float64)
    mask = tensor([[T] * length + [F] * padding])
    found, _ = gae(
        torch.cat([rewards, junk])[None],
        torch.cat([values, junk])[None],
        mask,
        gamma=gamma,
        lam=lam,
    )
    torch.testing.assert_close(found[0, :length], torch.stack(expected))
    assert not found[0, length:].any()


def test_gae_skips_masked_tokens_between_real_ones():
    rewards, values = tensor([[0.0, NAN, 1.0, 2.0]]), tensor([[0.2, NAN, 0.5, 1.0]])
    found, _ = gae(rewards, values, tensor([[T, F, T, T]]), gamma=0.5, lam=0.5)
    torch.testing.assert_close(found, tensor([[0.3625, 0.0, 1.25, 1.0]]))


def test_discounted_returns_by_hand():
    found = discounted_returns(
        tensor([[1.0, 2.0, 4.0], [3.0, NAN, NAN]]), tensor([[T, T, T], [T, F, F]]), gamma=0.5
    )
    torch.testing.assert_close(found, tensor([[3.0, 4.0, 4.0], [3.0, 0.0, 0.0]]))


def test_grpo_by_hand():
    # group of 1, 3, 5: mean 3, std (over n - 1) 2; the group's order and number do not matter
    score, group = tensor([1.0, 7.0, 5.0, 3.0]), tensor([4, 9, 4, 4])
    torch.testing.assert_close(
        grpo_advantages(score, group, eps=0.0)[[0, 2, 3]], tensor([-1.0, 1.0, 0.0])
    )
    torch.testing.assert_close(
        grpo_advantages(score, group, scale_by_std=False), tensor([-2.0, 0.0, 2.0, 0.0])
    )


AWKWARD = (0.1, -0.3, 1 / 3, 8.7, -16.1, 1e-7, 12345.678)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("number", [2, 3, 5, 7, 12, 64])
@pytest.mark.parametrize("value", AWKWARD)
def test_equal_rewards_teach_exactly_nothing(value, number, dtype):
    """Bug: their mean differed from them by rounding, and so little was divided by eps alone."""
    score = torch.full((number + 2,), value, dtype=dtype)
    score[-1] += 5.0  # another group
    group = tensor([1] * number + [0, 0])
    for found in (
        grpo_advantages(score, group),
        grpo_advantages(score, group, scale_by_std=False),
        rloo_advantages(score, group),
    ):
        assert found[:-2].count_nonzero() == 0 and found[-2] < 0 < found[-1]
    equal, mask = score[:-2, None].expand(number, 3), tensor([[T, T, F]]).expand(number, 3)
    assert whiten(equal, mask).count_nonzero() == 0
    moments = masked_moments(equal, mask)
    assert moments.squares == 0 and moments.mean == equal[0, 0]
    at_last = token_rewards(score[:-2], torch.zeros(number, 3, dtype=dtype), mask, 0.0)
    for groups in (None, group[:-2]):
        found = whiten(reinforce_plus_plus_advantages(at_last, mask, group_B=groups), mask)
        assert found.count_nonzero() == 0


def test_an_equal_group_of_an_old_bug_by_hand():
    """0.1 seven times: the sum of seven float32 of 0.1 is not 7 times it."""
    score = tensor([0.1] * 7)
    assert score.sum() / 7 != score[0]
    assert grpo_advantages(score, torch.zeros(7, dtype=torch.long)).tolist() == [0.0] * 7


def test_a_batch_without_tokens_whitens_to_nothing():
    assert whiten(tensor([[NAN, NAN]]), tensor([[F, F]])).tolist() == [[0.0, 0.0]]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 3), st.floats(-9, 9)), min_size=1, max_size=12))
def test_group_baselines_equal_their_definitions(rows):
    score, group = tensor([s for _, s in rows], dtype=torch.float64), tensor([g for g, _ in rows])
    for i, (name, own) in enumerate(rows):
        members = [s for g, s in rows if g == name]
        others = [s for j, (g, s) in enumerate(rows) if g == name and j != i]
        expected = own - statistics.fmean(others) if others else 0.0
        assert float(rloo_advantages(score, group)[i]) == pytest.approx(expected, abs=1e-9)
        spread = statistics.stdev(members) if len(members) > 1 else 0.0
        expected = (own - statistics.fmean(members)) / (spread + 1e-6)
        assert float(grpo_advantages(score, group)[i]) == pytest.approx(
            expected, rel=1e-6, abs=1e-6
        )


def test_reinforce_plus_plus_with_groups_takes_the_group_mean_off_the_summed_reward():
    rewards, mask = tensor([[1.0, 2.0], [5.0, NAN]]), tensor([[T, T], [T, F]])
    found = reinforce_plus_plus_advantages(rewards, mask, group_B=tensor([0, 0]))
    assert found.tolist() == [[-1.0, -1.0], [1.0, 0.0]]


def test_a_responses_advantage_stands_at_each_of_its_tokens():
    assert at_tokens(tensor([2.0, NAN]), tensor([[T, F], [F, F]])).tolist() == [
        [2.0, 0.0],
        [0.0, 0.0],
    ]


def test_whitened_values_have_zero_mean_and_unit_spread_over_real_tokens():
    mask = tensor([[T, T], [T, F]])
    result = whiten(tensor([[1.0, 2.0], [3.0, 99.0]]), mask)
    expected = math.sqrt(1.5)
    torch.testing.assert_close(result, tensor([[-expected, 0.0], [expected, 0.0]]))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.floats(-1e3, 1e3), st.booleans()), min_size=1, max_size=30), st.data())
def test_whitening_by_merged_moments_equals_whitening_at_once(cells, data):
    """Ranks take the moments of their own tokens, merge them, and whiten their own tokens."""
    values = tensor([[v if real else NAN for v, real in cells]], dtype=torch.float64)
    mask = tensor([[real for _, real in cells]])
    cuts = sorted(data.draw(st.lists(st.integers(0, len(cells)), max_size=3)))
    spans = list(zip([0, *cuts], [*cuts, len(cells)], strict=True))
    merged = masked_moments(values[:, :0], mask[:, :0])
    for start, end in spans:
        merged = merge_moments(merged, masked_moments(values[:, start:end], mask[:, start:end]))
    real = values[mask]
    assert int(merged.n) == len(real)
    if len(real):
        torch.testing.assert_close(merged.mean, real.mean(), atol=1e-9, rtol=1e-9)
        torch.testing.assert_close(merged.std(), real.std(correction=0), atol=1e-6, rtol=1e-6)
        parts = [
            standardise(values[:, a:b], mask[:, a:b], mean=merged.mean, std=merged.std() + 1.0)
            for a, b in spans
        ]
        expected = standardise(values, mask, mean=real.mean(), std=real.std(correction=0) + 1.0)
        torch.testing.assert_close(torch.cat(parts, 1), expected, atol=1e-6, rtol=1e-6)


def test_explained_variance_of_a_perfect_a_useless_and_a_constant_critic():
    returns, mask = tensor([[1.0, 2.0, 3.0]]), tensor([[T, T, T]])
    assert explained_variance(returns.clone(), returns, mask) == pytest.approx(1)
    assert explained_variance(torch.zeros(1, 3), returns, mask) == pytest.approx(0)
    assert explained_variance(returns, torch.ones(1, 3), mask) == 0
