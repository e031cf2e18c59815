"""Invariances of the losses of pairs: order of pairs, microbatches, ranks."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from ranks_of_step import microbatches_of_ranks
from torch import Tensor

from rlhf_core.objectives.losses import bradley_terry, dpo, ipo, reward_centring

CLOSE = {"atol": 1e-12, "rtol": 1e-9}
QUICK = settings(deadline=None, max_examples=25)
# name -> (chosen, rejected, pairs of the step) -> loss; scores, or log-ratios for the last two
PAIRED: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    "bradley-terry": lambda chosen, rejected, n: bradley_terry(
        chosen, rejected, n, margin=0.3, smoothing=0.1
    ),
    "centring": reward_centring,
    "dpo": lambda chosen, rejected, n: dpo(chosen, rejected, n, beta=0.1, smoothing=0.1),
    "ipo": lambda chosen, rejected, n: ipo(chosen, rejected, n, beta=0.1),
}


@pytest.mark.parametrize("name", PAIRED)
@QUICK
@given(
    st.integers(1, 7),
    st.integers(1, 4),
    st.integers(1, 12),
    st.integers(0, 10_000),
    st.randoms(use_true_random=False),
)
def test_order_microbatches_and_ranks_change_no_loss_of_pairs(
    name, pairs, count, budget, seed, random
):
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2 * pairs, generator=generator, dtype=torch.float64)

    def of(rows: list[int]) -> tuple[Tensor, Tensor]:
        chosen = scores[rows].requires_grad_()
        loss = PAIRED[name](chosen[::2], chosen[1::2], pairs)
        loss.backward()
        return loss.detach(), chosen.grad

    value, gradient = of(list(range(2 * pairs)))
    order = [2 * pair + side for pair in random.sample(range(pairs), pairs) for side in (0, 1)]
    shuffled, its_gradient = of(order)
    torch.testing.assert_close(shuffled, value, **CLOSE)
    torch.testing.assert_close(its_gradient, gradient[order], **CLOSE)
    total, its_gradient = torch.zeros_like(value), torch.zeros_like(gradient)
    for plan in microbatches_of_ranks([(1, 1)] * (2 * pairs), budget, count, group=2):
        for rows, counted in plan:
            part, part_gradient = of(rows)
            total += part * counted
            its_gradient[rows] += part_gradient * counted
    torch.testing.assert_close(total, value, **CLOSE)
    torch.testing.assert_close(its_gradient, gradient, **CLOSE)
