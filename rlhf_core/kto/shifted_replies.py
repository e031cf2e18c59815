"""Mismatched replies: the prompts of a step, each with the reply to another prompt of the step."""

from array import array
from collections.abc import Sequence as Seq
from hashlib import blake2b

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, order
from rlhf_core.config import KTO
from rlhf_core.data.rows.lazy import LazySequence
from rlhf_core.kto.other_prompts import places_of_other_prompts


class ShiftedReplies(LazySequence[Sequence]):
    """The prompts of all steps in their order, each with the reply to another of its step.

    Within a step the replies are shifted by one place, as TRL does. Where the reply before is one
    to the same prompt, the nearest earlier one to another prompt takes its place (TRL takes the
    reply before all the same). A step of one prompt takes replies of earlier steps of the epoch.
    """

    def __init__(self, sequences: Seq[Sequence], config: KTO, *, seed: int):
        self._sequences, self._count = sequences, len(sequences)
        self._batch_size = config.batch_size
        orders = [
            torch.tensor(order(self._count, seed=seed, epoch=epoch), dtype=torch.int64)
            for epoch in range(config.epochs)
        ]
        self._prompts_M = torch.cat(orders)
        prompts = _numbered(sequences)
        self._replies_M = torch.cat(
            [_shifted(one, prompts[one].tolist(), config.batch_size) for one in orders]
        )

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


def _numbered(sequences: Seq[Sequence]) -> Tensor:
    """Return a number for the prompt of each sequence, the same for the same prompt."""
    numbers: dict[bytes, int] = {}
    found = []
    for sequence in sequences:
        key = blake2b(array("q", sequence.prompt).tobytes(), digest_size=16).digest()
        found.append(numbers.setdefault(key, len(numbers)))
    return torch.tensor(found, dtype=torch.int64)


def _shifted(order_N: Tensor, prompts: list[int], batch_size: int) -> Tensor:
    """Return the row whose reply each row of an epoch meets. prompts: their numbers, in order."""
    over_all = places_of_other_prompts(prompts)
    places: list[int] = []
    for start in range(0, len(prompts), batch_size):
        step = prompts[start : start + batch_size]
        if len(set(step)) > 1:
            places += [start + place for place in places_of_other_prompts(step)]
        else:
            places += over_all[start : start + batch_size]
    return order_N[places]
