"""Each objective against hand-computed tables."""

import math

import pytest
import torch
from torch import tensor

from rlhf_core.objectives.advantages import token_rewards
from rlhf_core.objectives.losses import (
    aggregate,
    bradley_terry,
    clipped_importance,
    clipped_surrogate,
    clipped_value_error,
    cross_entropy,
    dpo,
    ipo,
    probability_ratio,
    reward_centring,
    sequence_mean_token_mean,
    sequence_mean_token_sum,
    sequence_ratio,
    sequence_sum,
    step_denominator,
    tempered,
    token_entropy,
    token_logprobs,
    token_mean,
)

T, F = True, False
NAN = float("nan")


def test_token_logprobs_of_a_known_softmax():
    logits = tensor([[[0.0, math.log(3.0)], [math.log(4.0), 0.0]]])
    expected = tensor([[math.log(0.75), math.log(0.8)]])
    torch.testing.assert_close(token_logprobs(logits, tensor([[1, 0]])), expected)


def test_half_precision_logits_are_widened_and_float64_ones_are_not_narrowed():
    logits = torch.randn(1, 2, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for function in (
        token_entropy,
        lambda x: token_logprobs(x, tensor([[1, 0]])),
        lambda x: tempered(x, 0.7),
    ):
        assert function(logits).dtype == torch.float64
        assert function(logits.bfloat16()).dtype == torch.float32


def test_temperature_is_that_of_the_sampler():
    """softmax(log(p) / T) is proportional to p^(1 / T).

    (0.2, 0.8) at T = 0.5 becomes (0.04, 0.64) / 0.68.
    """
    logits = tensor([[[0.2, 0.8]]]).log()
    found = token_logprobs(tempered(logits, 0.5), tensor([[1]])).exp()
    torch.testing.assert_close(found, tensor([[0.64 / 0.68]]))
    assert tempered(logits, 1.0) is logits


def test_entropy_of_a_uniform_and_of_a_certain_distribution():
    logits = tensor([[[0.0, 0.0, 0.0, 0.0], [100.0, 0.0, 0.0, 0.0]]])
    torch.testing.assert_close(
        token_entropy(logits), tensor([[math.log(4), 0.0]]), atol=1e-6, rtol=0
    )


def test_cross_entropy_counts_response_tokens_only():
    logprobs, mask = tensor([[-1.0, -2.0, -9.0], [-3.0, NAN, -9.0]]), tensor([[T, T, F], [T, F, F]])
    assert float(cross_entropy(logprobs, mask, 3)) == pytest.approx(2.0)
    assert sequence_sum(logprobs, mask).tolist() == [-3.0, -3.0]


def test_aggregations_by_hand():
    """Responses of 1 and 3 tokens with losses (6) and (1, 2, 3); the third row is all padding."""
    loss = tensor([[6.0, NAN, NAN], [1.0, 2.0, 3.0], [NAN, NAN, NAN]])
    mask = tensor([[T, F, F], [T, T, T], [F, F, F]])
    assert float(token_mean(loss, mask, 4)) == 3.0
    assert float(sequence_mean_token_mean(loss, mask, 2)) == 4.0
    assert float(sequence_mean_token_sum(loss, mask, 2)) == 6.0
    assert float(sequence_mean_token_sum(loss, mask, 2, length=3)) == 2.0


def test_bradley_terry_by_hand():
    # -log sigmoid(1 - 0) = 0.313262, -log sigmoid(0 - 2) = 2.126928; mean 1.220095
    assert float(bradley_terry(tensor([1.0, 0.0]), tensor([0.0, 2.0]), 2)) == pytest.approx(
        1.220095, abs=1e-6
    )


def test_margin_asks_for_a_larger_difference():
    # d = 3 - 1 - margin; -log sigmoid(2) = 0.126928, -log sigmoid(1) = 0.313262
    chosen, rejected = tensor([3.0, 3.0]), tensor([1.0, 1.0])
    found = bradley_terry(chosen, rejected, 1, margin=tensor([0.0, 1.0]))
    assert float(found) == pytest.approx(0.126928 + 0.313262, abs=1e-6)


@pytest.mark.parametrize("agreement", [1.0, 0.9, 0.6])
def test_smoothed_bradley_terry_is_least_where_the_model_is_as_sure_as_the_annotators(agreement):
    """The minimum is at sigmoid(d) = agreement, and there the loss is the label's entropy."""
    d = tensor(
        [math.log(agreement / (1 - agreement)) if agreement < 1 else 30.0], requires_grad=True
    )
    loss = bradley_terry(d, tensor([0.0]), 1, smoothing=1 - agreement)
    entropy = -sum(p * math.log(p) for p in (agreement, 1 - agreement) if p)
    assert float(loss.detach()) == pytest.approx(entropy, abs=1e-6)
    loss.backward()
    assert float(d.grad) == pytest.approx(0, abs=1e-6)


def test_smoothing_may_differ_by_pair():
    chosen, rejected = tensor([1.0, 0.0]), tensor([0.0, 2.0])
    together = bradley_terry(chosen, rejected, 1, smoothing=tensor([0.1, 0.4]))
    alone = [
        bradley_terry(chosen[i], rejected[i], 1, smoothing=s) for i, s in enumerate((0.1, 0.4))
    ]
    assert float(together) == pytest.approx(float(sum(alone)))


def test_reward_centring_pulls_the_sum_of_both_scores_to_zero():
    assert float(reward_centring(tensor([1.0, 2.0]), tensor([-1.0, 1.0]), 2)) == 4.5


def test_dpo_by_hand():
    # beta h = 0.1 * (5 - (-5)) = 1: -log sigmoid(1) = 0.313262, -log sigmoid(-1) = 1.313262
    chosen, rejected = tensor([5.0]), tensor([-5.0])
    assert float(dpo(chosen, rejected, 1, beta=0.1)) == pytest.approx(0.313262, abs=1e-6)
    smoothed = 0.8 * 0.313262 + 0.2 * 1.313262
    assert float(dpo(chosen, rejected, 1, beta=0.1, smoothing=0.2)) == pytest.approx(
        smoothed, abs=1e-6
    )


def test_weighted_losses_of_pairs_by_hand():
    """Table of two pairs with weights 1/2 and 3/2, over a denominator of 2."""
    weight = tensor([0.5, 1.5])
    # -log sigmoid(1 - 0) = 0.313262, -log sigmoid(0 - 2) = 2.126928
    scores = tensor([1.0, 0.0]), tensor([0.0, 2.0])
    found = bradley_terry(*scores, 2, weight=weight)
    assert float(found) == pytest.approx((0.5 * 0.313262 + 1.5 * 2.126928) / 2, abs=1e-6)
    smoothed = [0.8 * 0.313262 + 0.2 * 1.313262, 0.6 * 2.126928 + 0.4 * 0.126928]
    found = bradley_terry(*scores, 2, weight=weight, smoothing=tensor([0.2, 0.4]))
    assert float(found) == pytest.approx((0.5 * smoothed[0] + 1.5 * smoothed[1]) / 2, abs=1e-6)
    # (1 + 0)^2 = 1, (0 + 2)^2 = 4
    assert float(reward_centring(*scores, 2, weight=weight)) == pytest.approx((0.5 + 6.0) / 2)
    # beta h = 0.1 * 10 = 1 and 0.1 * -20 = -2
    ratios = tensor([5.0, -15.0]), tensor([-5.0, 5.0])
    found = dpo(*ratios, 2, beta=0.1, weight=weight)
    assert float(found) == pytest.approx((0.5 * 0.313262 + 1.5 * 2.126928) / 2, abs=1e-6)
    # (10 - 5)^2 = 25, (-20 - 5)^2 = 625
    found = ipo(*ratios, 2, beta=0.1, weight=weight)
    assert float(found) == pytest.approx((0.5 * 25 + 1.5 * 625) / 2)


def test_a_weight_multiplies_a_pairs_gradient_and_no_others():
    chosen, rejected = tensor([1.0, 0.0], requires_grad=True), tensor([0.0, 2.0])
    for loss, how in ((bradley_terry, {}), (dpo, {"beta": 0.1}), (ipo, {"beta": 0.1})):
        plain, heavy = (
            torch.autograd.grad(loss(chosen, rejected, 2, weight=w, **how), chosen)[0]
            for w in (1.0, tensor([1.0, 3.0]))
        )
        assert heavy.tolist() == pytest.approx([float(plain[0]), 3 * float(plain[1])])


def test_ipo_is_least_at_its_own_margin():
    # (10 - 1 / 0.2)^2 = 25; 0 where h = 1 / (2 beta)
    assert float(ipo(tensor([5.0]), tensor([-5.0]), 1, beta=0.1)) == pytest.approx(25.0)
    assert float(ipo(tensor([5.0]), tensor([0.0]), 1, beta=0.1)) == pytest.approx(0.0)


def test_clipped_surrogate_table():
    # ratio, advantage -> min(r A, clip(r) A): (2, +1) -> 1.2; (2, -1) -> -2; (.5, +1) -> .5; (.5,
    # -1) -> -.8
    ratio, advantages = tensor([[2.0, 2.0, 0.5, 0.5]]), tensor([[1.0, -1.0, 1.0, -1.0]])
    found = clipped_surrogate(ratio, advantages, clip_low=0.2, clip_high=0.2)
    torch.testing.assert_close(found, tensor([[-1.2, 2.0, -0.5, 0.8]]))


def test_clip_range_may_be_wider_above():
    ratio, advantages = tensor([[1.25, 2.0, 0.5]]), tensor([[1.0, 1.0, -1.0]])
    found = clipped_surrogate(ratio, advantages, clip_low=0.2, clip_high=0.28)
    torch.testing.assert_close(found, tensor([[-1.25, -1.28, 0.8]]))


def test_dual_clip_bounds_the_loss_of_a_large_ratio_where_the_advantage_is_negative():
    ratio = tensor([[10.0, 10.0, 2.0]], requires_grad=True)
    found = clipped_surrogate(
        ratio, tensor([[-1.0, 1.0, -1.0]]), clip_low=0.2, clip_high=0.2, dual_clip=3.0
    )
    torch.testing.assert_close(found, tensor([[3.0, -1.2, 2.0]]))
    found.sum().backward()
    torch.testing.assert_close(ratio.grad, tensor([[0.0, 0.0, 1.0]]))


def test_clipped_tokens_give_no_gradient_and_first_epoch_gradient_is_minus_advantage():
    new = tensor([[2.0, 1.0]]).log().requires_grad_()
    ratio = probability_ratio(new, torch.zeros(1, 2), tensor([[T, T]]))
    clipped_surrogate(ratio, tensor([[1.0, 3.0]]), clip_low=0.2, clip_high=0.2).sum().backward()
    torch.testing.assert_close(new.grad, tensor([[0.0, -3.0]]))


def test_gspo_table():
    # log-ratios of tokens: (0.2, -0.1, 0.2) mean 0.1; (-0.4, 0.0) mean -0.2; one of 0.3
    new = tensor([[0.2, -0.1, 0.2], [-0.4, 0.0, NAN], [0.3, NAN, NAN]]).requires_grad_()
    mask = tensor([[T, T, T], [T, T, F], [T, F, F]])
    ratio = sequence_ratio(new, torch.zeros(3, 3), mask)
    above, below, far = math.exp(0.1), math.exp(-0.2), math.exp(0.3)
    expected = tensor([[above] * 3, [below, below, 1.0], [far, 1.0, 1.0]])
    torch.testing.assert_close(ratio.detach(), expected)
    # at most 1.15 and at least 0.9. Advantages +1: 1.105 stays; -1: 0.9 is worse; +2: 2 * 1.15
    advantages = tensor([1.0, -1.0, 2.0])[:, None].expand(3, 3)
    loss = clipped_surrogate(ratio, advantages, clip_low=0.1, clip_high=0.15)
    total = aggregate(loss, mask, "sequences", 3)
    assert float(total) == pytest.approx((-above + 0.9 - 2.3) / 3, rel=1e-6)
    # only the first response is not clipped: -A s / (its 3 tokens * 3 responses), for each token
    total.backward()
    expected = torch.zeros(3, 3)
    expected[0] = -above / 9
    torch.testing.assert_close(new.grad, expected)


def test_gspo_by_token_has_the_gradient_of_the_papers_sequence_objective():
    """Eq. 5 differentiates s itself; with one advantage per response both are the same."""
    generator = torch.Generator().manual_seed(0)
    new, old = torch.randn(2, 4, 5, generator=generator, dtype=torch.float64) / 9
    mask = torch.arange(5) < tensor([5, 1, 3, 4])[:, None]
    advantage_B = torch.randn(4, generator=generator, dtype=torch.float64)
    leaf, same = new.clone().requires_grad_(), new.clone().requires_grad_()
    s_B = ((leaf - old).masked_fill(~mask, 0.0).sum(-1) / mask.sum(-1)).exp()
    paper = -torch.minimum(s_B * advantage_B, s_B.clamp(0.95, 1.02) * advantage_B).mean()
    loss = clipped_surrogate(
        sequence_ratio(same, old, mask), advantage_B[:, None], clip_low=0.05, clip_high=0.02
    )
    ours = aggregate(loss, mask, "sequences", 4)
    paper.backward()
    ours.backward()
    torch.testing.assert_close(ours, paper)
    torch.testing.assert_close(same.grad, leaf.grad)
    assert 0 < int((leaf.grad[:, 0] == 0).sum()) < 4  # some responses are clipped


def test_cispo_table():
    # (ratio, A) -> -clip(ratio) A log pi: (2, 1) -> 1.28 log 2; (.5, -1) -> .8; (1.1, 3) -> 3.3
    new = tensor([[-0.1, -0.2, -0.3, NAN]]).requires_grad_()
    ratio = tensor([[2.0, 0.5, 1.1, NAN]])
    advantages, mask = tensor([[1.0, -1.0, 3.0, NAN]]), tensor([[T, T, T, F]])
    found = clipped_importance(new, ratio, advantages, mask, clip_low=0.2, clip_high=0.28)
    torch.testing.assert_close(found[mask], tensor([0.128, -0.16, 0.99]))
    aggregate(found, mask, "tokens", 3).backward()  # every token keeps its gradient
    torch.testing.assert_close(new.grad, tensor([[-1.28, 0.8, -3.3, 0.0]]) / 3)
    free = clipped_importance(new, ratio, advantages, mask, clip_low=math.inf, clip_high=0.28)
    torch.testing.assert_close(free[mask].detach(), tensor([0.128, -0.1, 0.99]))


def test_cispo_gives_the_weight_no_gradient():
    ratio = tensor([[1.1]], requires_grad=True)
    new = tensor([[-1.0]], requires_grad=True)
    clipped_importance(
        new, ratio, tensor([[1.0]]), tensor([[T]]), clip_low=0.2, clip_high=0.28
    ).sum().backward()
    assert ratio.grad is None and float(new.grad) == pytest.approx(-1.1)


def test_aggregation_table():
    # token losses 1, 2, 3 and 4: of two responses; a third has no token
    loss, mask = (
        tensor([[1.0, 2.0, 3.0], [4.0, NAN, NAN], [NAN, NAN, NAN]]),
        tensor([[T, T, T], [T, F, F], [F, F, F]]),
    )
    expected = {"tokens": (4, 10 / 4), "sequences": (2, (2 + 4) / 2), "constant": (24, 10 / 24)}
    for kind, (denominator, value) in expected.items():
        assert step_denominator(mask, kind, length=8) == denominator
        assert float(aggregate(loss, mask, kind, denominator)) == pytest.approx(value)


def test_clipped_value_error_table():
    # (new, old, return): unclipped (.1, 0, 1): .81; clipped to .2 (1, 0, 1): max(0, .64) = .64;
    # halved
    new, old, returns = tensor([[0.1, 1.0, 5.0]]), torch.zeros(1, 3), tensor([[1.0, 1.0, 0.0]])
    mask = tensor([[T, T, F]])
    found = clipped_value_error(new, old, returns, mask, clip=0.2)
    torch.testing.assert_close(found, tensor([[0.405, 0.32, 0.0]]))
    torch.testing.assert_close(
        clipped_value_error(new, old, returns, mask, clip=None), tensor([[0.405, 0.0, 0.0]])
    )


@pytest.mark.parametrize("junk", [NAN, float("inf")])
def test_not_a_number_at_padding_does_not_survive_a_multiplication_by_zero(junk):
    """Bug: loss * mask, where 0 * NaN is NaN, in the value or only in the gradient."""
    mask = tensor([[T, F]])
    new, old = (tensor([[0.5, junk]], requires_grad=r) for r in (True, False))
    for loss in (
        cross_entropy(new, mask, 1),
        token_mean(clipped_value_error(new, old, tensor([[1.0, junk]]), mask, clip=0.2), mask, 1),
        token_rewards(tensor([2.0]), new, mask, 0.1).sum(),
    ):
        new.grad = None
        loss.backward()
        assert loss.isfinite() and new.grad.isfinite().all() and new.grad[0, 1] == 0
