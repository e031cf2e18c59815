"""The microbatches of every rank, from one process."""

from collections.abc import Hashable, Sequence

import pytest

from rlhf_core.batching.microbatches import own_microbatches


def microbatches_of_ranks(
    sizes: list[tuple[int, int]],
    budget: int,
    count: int,
    *,
    group: int = 1,
    packing: bool = False,
    prompts: Sequence[Hashable] | None = None,
) -> list[list[tuple[list[int], bool]]]:
    """Return the microbatches of each of `count` ranks."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(count))
        for number in range(count):
            patch.setenv("RANK", str(number))
            own = own_microbatches(sizes, budget, group=group, packing=packing, prompts=prompts)
            found.append(own)
    return found
