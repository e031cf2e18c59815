"""Exchanges between ranks besides gradients: sums, and values side by side.

With one rank every function returns its argument.
"""

import json
from typing import TypeVar

import torch
from torch import Tensor
from torch import distributed as dist

from rlhf_core.batching.batch import device
from rlhf_core.ranks import ranks

T = TypeVar("T")


def gathered(value: T) -> list[T]:
    """Return every rank's JSON value, in rank order; floats come through exactly."""
    if ranks() == 1:
        return [value]
    own = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8).to(device())
    sizes = [torch.zeros(1, dtype=torch.int64, device=device()) for _ in range(ranks())]
    dist.all_gather(sizes, torch.tensor([len(own)], device=device()))
    longest = max(int(size) for size in sizes)
    padded = torch.zeros(longest, dtype=torch.uint8, device=device())
    padded[: len(own)] = own
    parts = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(parts, padded)
    return [
        json.loads(part[: int(size)].cpu().numpy().tobytes())
        for part, size in zip(parts, sizes, strict=True)
    ]


def total(values: dict[str, float]) -> dict[str, float]:
    """Return each number summed over the ranks that have it.

    The sum goes in rank order, so that every rank gets the same.
    """
    parts = gathered(dict(values))
    names = dict.fromkeys(name for part in parts for name in part)  # a rank without rows has none
    return {name: sum(part.get(name, 0.0) for part in parts) for name in names}


def summed(tensor: Tensor) -> Tensor:
    """Return the tensor added up over the ranks.

    Ranks that fill different rows and leave the others 0 put them together exactly.
    """
    if ranks() == 1:
        return tensor
    moved = tensor.to(device())
    dist.all_reduce(moved)
    return moved.to(tensor.device)


def barrier() -> None:
    """Wait for every rank."""
    if ranks() > 1:
        dist.barrier()
