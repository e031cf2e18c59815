"""Mismatched replies: the prompts of a step, each with the reply to another prompt of the step."""

from collections.abc import Sequence as Seq

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, order
from rlhf_core.config import KTO
from rlhf_core.data.rows.lazy import LazySequence


class ShiftedReplies(LazySequence[Sequence]):
    """The prompts of all steps in their order, each with the reply to another of its step.

    Within a step the replies are shifted by one place. A step of one reply takes that of the row
    before it in the epoch.
    """

    def __init__(self, sequences: Seq[Sequence], config: KTO, *, seed: int):
        self._sequences, self._count = sequences, len(sequences)
        self._batch_size = config.batch_size
        orders = [
            torch.tensor(order(self._count, seed=seed, epoch=epoch), dtype=torch.int64)
            for epoch in range(config.epochs)
        ]
        self._prompts_M = torch.cat(orders)
        self._replies_M = torch.cat([_shifted(one, config.batch_size) for one in orders])

    def __len__(self) -> int:
        return len(self._prompts_M)

    def item(self, index: int) -> Sequence:
        """Return a prompt with the reply to another one."""
        prompt, reply = int(self._prompts_M[index]), int(self._replies_M[index])
        return Sequence(self._sequences[prompt].prompt, self._sequences[reply].response)

    def places(self, step: int) -> slice:
        """Return the places of a step, which are counted from 1."""
        epoch, position = divmod(step - 1, -(-self._count // self._batch_size))
        start = epoch * self._count + position * self._batch_size
        return slice(start, min(start + self._batch_size, (epoch + 1) * self._count))


def _shifted(order_N: Tensor, batch_size: int) -> Tensor:
    parts = list(order_N.split(batch_size))
    shifted = [part.roll(1) for part in parts]
    if len(parts[-1]) == 1 and len(order_N) > 1:
        shifted[-1] = order_N[-2:-1]
    return torch.cat(shifted)
