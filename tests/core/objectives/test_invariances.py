"""Invariances of every objective: padding, order of rows, masked rows, microbatches, ranks."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_of_step import microbatches_of_ranks
from torch import Tensor

from rlhf_core.objectives.advantages import (
    at_tokens,
    gae,
    grpo_advantages,
    reinforce_plus_plus_advantages,
    rloo_advantages,
    token_rewards,
    whiten,
)
from rlhf_core.objectives.importance import mismatch, truncated_weights
from rlhf_core.objectives.kl import token_kl
from rlhf_core.objectives.losses import (
    clipped_importance,
    clipped_surrogate,
    clipped_value_error,
    cross_entropy,
    probability_ratio,
    sequence_mean_token_mean,
    sequence_mean_token_sum,
    sequence_ratio,
    token_mean,
)

NAN = float("nan")
CLOSE = {"atol": 1e-12, "rtol": 1e-9}


@dataclass(frozen=True)
class Rows:
    """A ragged batch: (B, R) float64 tensors, NaN at padding."""

    mask: Tensor
    new: Tensor  # log-probabilities, or values where the objective is the critic's
    old: Tensor
    other: Tensor
    advantages: Tensor
    score: Tensor  # (B,)
    group: Tensor  # (B,)

    def change(self, function: Callable[[Tensor], Tensor]) -> "Rows":
        return Rows(**{f.name: function(getattr(self, f.name)) for f in dataclasses.fields(self)})

    def pick(self, rows: list[int]) -> "Rows":
        return self.change(lambda tensor: tensor[rows])


@st.composite
def ragged(draw) -> Rows:
    lengths = torch.tensor(draw(st.lists(st.integers(1, 6), min_size=1, max_size=5)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 10_000)))
    mask = torch.arange(int(lengths.max())) < lengths[:, None]

    def normal() -> Tensor:
        return torch.randn(mask.shape, generator=generator, dtype=torch.float64).masked_fill(
            ~mask, NAN
        )

    score = torch.randn(len(lengths), generator=generator, dtype=torch.float64)
    group = torch.randint(0, 2, (len(lengths),), generator=generator)
    return Rows(mask, normal(), normal(), normal(), normal(), score, group)


def surrogate(x: Rows, dual_clip: float | None = None) -> Tensor:
    ratio = probability_ratio(x.new, x.old, x.mask)
    return clipped_surrogate(ratio, x.advantages, clip_low=0.2, clip_high=0.28, dual_clip=dual_clip)


def gspo(x: Rows) -> Tensor:
    ratio = sequence_ratio(x.new, x.old, x.mask)
    return clipped_surrogate(ratio, x.advantages, clip_low=0.3, clip_high=0.4)


def cispo(x: Rows) -> Tensor:
    ratio = probability_ratio(x.new, x.old, x.mask)
    return clipped_importance(x.new, ratio, x.advantages, x.mask, clip_low=0.2, clip_high=0.28)


def value_error(x: Rows, clip: float | None) -> Tensor:
    return clipped_value_error(x.new, x.old, x.other, x.mask, clip=clip)


def weights(x: Rows, level: str) -> Tensor:
    return truncated_weights(x.old, x.other, x.mask, cap=1.5, level=level)


# name -> (rows, tokens of the step, sequences of the step) -> loss
LOSSES: dict[str, Callable[[Rows, int, int], Tensor]] = {
    "cross entropy": lambda x, n, b: cross_entropy(x.new, x.mask, n),
    "surrogate by token": lambda x, n, b: token_mean(surrogate(x), x.mask, n),
    "surrogate by sequence": lambda x, n, b: sequence_mean_token_mean(surrogate(x), x.mask, b),
    "surrogate by constant length": lambda x, n, b: sequence_mean_token_sum(
        surrogate(x, 3.0), x.mask, b, length=6
    ),
    "gspo": lambda x, n, b: sequence_mean_token_mean(gspo(x), x.mask, b),
    "cispo": lambda x, n, b: token_mean(cispo(x), x.mask, n),
    "value, clipped": lambda x, n, b: token_mean(value_error(x, 0.2), x.mask, n),
    "value": lambda x, n, b: token_mean(value_error(x, None), x.mask, n),
    "token importance": lambda x, n, b: token_mean(weights(x, "token") * surrogate(x), x.mask, n),
    "sequence importance": lambda x, n, b: token_mean(
        weights(x, "sequence") * surrogate(x), x.mask, n
    ),
    "k2": lambda x, n, b: token_mean(token_kl(x.new, x.other, x.mask, "k2"), x.mask, n),
    "k3": lambda x, n, b: token_mean(token_kl(x.new, x.other, x.mask, "k3"), x.mask, n),
}

# name -> rows -> (B, R), each row's own or with the statistics of the batch
PER_TOKEN: dict[str, Callable[[Rows], Tensor]] = {
    "token rewards": lambda x: token_rewards(x.score, x.new, x.mask, beta=0.1),
    "gae": lambda x: gae(x.new, x.old, x.mask, gamma=0.9, lam=0.8)[0],
    "returns": lambda x: gae(x.new, x.old, x.mask, gamma=0.9, lam=0.8)[1],
    "whitened": lambda x: whiten(x.new, x.mask),
    "grpo": lambda x: at_tokens(grpo_advantages(x.score, x.group), x.mask),
    "rloo": lambda x: at_tokens(rloo_advantages(x.score, x.group), x.mask),
    "reinforce++": lambda x: whiten(
        reinforce_plus_plus_advantages(x.new, x.mask, gamma=0.9), x.mask
    ),
    "reinforce++-baseline": lambda x: whiten(
        reinforce_plus_plus_advantages(x.new, x.mask, group_B=x.group), x.mask
    ),
}
QUICK = settings(deadline=None, max_examples=25)


def counts(x: Rows) -> tuple[int, int]:
    return int(x.mask.sum()), int(x.mask.any(-1).sum())


def evaluate(loss: Callable, x: Rows, tokens: int, sequences: int) -> tuple[Tensor, Tensor]:
    """Loss and its gradient with respect to `new`."""
    new = x.new.clone().requires_grad_()
    value = loss(dataclasses.replace(x, new=new), tokens, sequences)
    value.backward()
    return value.detach(), new.grad


def padded(x: Rows, columns: int) -> Rows:
    def pad(tensor: Tensor) -> Tensor:
        if tensor.dim() == 1:
            return tensor
        fill = False if tensor.dtype == torch.bool else NAN
        return torch.cat([tensor, torch.full((len(tensor), columns), fill, dtype=tensor.dtype)], 1)

    return x.change(pad)


def with_masked_row(x: Rows) -> Rows:
    """One more row, all padding, in a group of its own."""

    def add(tensor: Tensor) -> Tensor:
        fill = {torch.bool: False, torch.int64: 7}.get(tensor.dtype, NAN)
        return torch.cat([tensor, torch.full_like(tensor[:1], fill)])

    return x.change(add)


@pytest.mark.parametrize("name", LOSSES)
@QUICK
@given(ragged(), st.integers(1, 3))
def test_padding_changes_no_loss(name, x, columns):
    value, gradient = evaluate(LOSSES[name], x, *counts(x))
    found, its_gradient = evaluate(LOSSES[name], padded(x, columns), *counts(x))
    torch.testing.assert_close(found, value, **CLOSE)
    torch.testing.assert_close(its_gradient[:, : gradient.shape[1]], gradient, **CLOSE)
    assert not its_gradient[:, gradient.shape[1] :].any() and not gradient[~x.mask].any()


@pytest.mark.parametrize("name", LOSSES)
@QUICK
@given(ragged(), st.randoms(use_true_random=False))
def test_order_of_rows_changes_no_loss(name, x, random):
    order = random.sample(range(len(x.mask)), len(x.mask))
    value, gradient = evaluate(LOSSES[name], x, *counts(x))
    found, its_gradient = evaluate(LOSSES[name], x.pick(order), *counts(x))
    torch.testing.assert_close(found, value, **CLOSE)
    torch.testing.assert_close(its_gradient, gradient[order], **CLOSE)


@pytest.mark.parametrize("name", LOSSES)
@QUICK
@given(ragged())
def test_a_masked_row_changes_no_loss(name, x):
    value, gradient = evaluate(LOSSES[name], x, *counts(x))
    longer = with_masked_row(x)
    found, its_gradient = evaluate(LOSSES[name], longer, *counts(longer))
    torch.testing.assert_close(found, value, **CLOSE)
    torch.testing.assert_close(its_gradient[:-1], gradient, **CLOSE)
    assert not its_gradient[-1].any()


@pytest.mark.parametrize("name", LOSSES)
@QUICK
@given(ragged(), st.integers(1, 4))
def test_microbatches_change_no_loss(name, x, size):
    """Each microbatch uses the counts of the whole step.

    Rows have unequal length, so that averaging per microbatch would show.
    """
    value, gradient = evaluate(LOSSES[name], x, *counts(x))
    starts = range(0, len(x.mask), size)
    parts = [
        evaluate(LOSSES[name], x.pick(list(range(len(x.mask)))[i : i + size]), *counts(x))
        for i in starts
    ]
    torch.testing.assert_close(torch.stack([part for part, _ in parts]).sum(), value, **CLOSE)
    torch.testing.assert_close(torch.cat([part for _, part in parts]), gradient, **CLOSE)


@pytest.mark.parametrize("name", LOSSES)
@QUICK
@given(ragged(), st.integers(1, 4), st.integers(1, 12))
def test_ranks_change_no_loss(name, x, count, budget):
    """Each rank has its own microbatches, and the sum over ranks is the whole.

    A pass without rows of its own counts 0 times.
    """
    value, gradient = evaluate(LOSSES[name], x, *counts(x))
    total, its_gradient = torch.zeros_like(value), torch.zeros_like(gradient)
    for plan in microbatches_of_ranks(
        [(1, int(length)) for length in x.mask.sum(-1)], budget, count
    ):
        for rows, counted in plan:
            part, part_gradient = evaluate(LOSSES[name], x.pick(rows), *counts(x))
            total += part * counted
            its_gradient[rows] += part_gradient * counted
    torch.testing.assert_close(total, value, **CLOSE)
    torch.testing.assert_close(its_gradient, gradient, **CLOSE)


@pytest.mark.parametrize("name", PER_TOKEN)
@QUICK
@given(ragged(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_padding_masked_rows_and_order_change_no_advantage(name, x, columns, random):
    expected = PER_TOKEN[name](x)
    assert not expected[~x.mask].any() and expected.isfinite().all()
    found = PER_TOKEN[name](padded(with_masked_row(x), columns))
    torch.testing.assert_close(found[:-1, : x.mask.shape[1]], expected, atol=1e-9, rtol=1e-6)
    assert not found[-1].any() and not found[:, x.mask.shape[1] :].any()
    order = random.sample(range(len(x.mask)), len(x.mask))
    torch.testing.assert_close(
        PER_TOKEN[name](x.pick(order)), expected[order], atol=1e-9, rtol=1e-6
    )


@QUICK
@given(ragged())
def test_before_the_first_update_ratios_are_exactly_one_and_divergences_exactly_zero(x):
    for function in (probability_ratio, sequence_ratio):
        ratio = function(x.old, x.old.clone(), x.mask)
        assert ratio.equal(torch.ones_like(ratio))
    for estimator in ("k1", "k2", "k3"):
        assert not token_kl(x.old, x.old.clone(), x.mask, estimator).any()
    for level in ("token", "sequence"):
        assert truncated_weights(x.old, x.old.clone(), x.mask, cap=1.0, level=level).equal(
            x.mask.double()
        )
    gap = mismatch(x.old, x.old.clone(), x.mask)
    assert gap[:4] == (0, 0, 0, 0) and gap.effective_share == pytest.approx(1, abs=1e-12)
    value, gradient = evaluate(
        LOSSES["surrogate by token"], dataclasses.replace(x, new=x.old), *counts(x)
    )
    tokens = counts(x)[0]
    torch.testing.assert_close(value, -x.advantages[x.mask].mean())
    torch.testing.assert_close(gradient[x.mask], -x.advantages[x.mask] / tokens)


@QUICK
@given(ragged())
def test_objectives_leave_their_inputs_untouched(x):
    copies = x.change(torch.clone)
    for loss in LOSSES.values():
        loss(x, *counts(x))
    for function in PER_TOKEN.values():
        function(x)
    for field in dataclasses.fields(x):
        assert getattr(x, field.name).equal(getattr(copies, field.name)) or torch.allclose(
            getattr(x, field.name), getattr(copies, field.name), rtol=0, atol=0, equal_nan=True
        )
