"""Weights that ZeRO 3 has divided among the ranks, whole, in buckets of bounded size."""

from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from math import prod
from typing import Any

from torch import Tensor, nn

# of gathered weights: small ones share a collective, and their copies take as much once more
BUCKET_BYTES = 64 * 2**20

Named = tuple[str, Tensor]


def gathered_weights(
    named: Iterable[Named], *, bucket_bytes: int = BUCKET_BYTES
) -> Iterator[Named]:
    """Yield each weight with its name, whole; all ranks take part.

    A bucket is gathered by one call and copied. A weight above `bucket_bytes` is a bucket alone.
    """
    for bucket in buckets(named, bucket_bytes):
        parameters = [value for _, value in bucket if isinstance(value, nn.Parameter)]
        with _whole(parameters):
            whole = deque((name, value.detach().clone()) for name, value in bucket)
        while whole:
            yield whole.popleft()


def changeable(parameters: Iterable[nn.Parameter]) -> AbstractContextManager[None]:
    """Hold the weights whole while open, and keep what rank 0 makes of them; all ranks take part.

    Weights that no rank divides are whole already, and each rank changes its own.
    """
    return _whole(parameters, modifier_rank=0)


def _whole(parameters: Iterable[Any], **options: Any) -> AbstractContextManager[None]:
    """Gather the divided ones of these weights from the ranks' shares while open."""
    # a tied weight is there twice
    divided = [*{id(one): one for one in parameters if hasattr(one, "ds_id")}.values()]
    if not divided:
        return nullcontext()
    from deepspeed.runtime.zero import GatheredParameters

    gathered: AbstractContextManager[None] = GatheredParameters(divided, **options)
    return gathered


def buckets(named: Iterable[Named], bucket_bytes: int) -> Iterator[list[Named]]:
    """Yield neighbouring weights together, of at most `bucket_bytes` or alone, in their order."""
    bucket: list[Named] = []
    size = 0
    for name, value in named:
        # `ds_shape`: of the whole weight, where a rank holds a part of it
        of_value = prod(getattr(value, "ds_shape", value.shape)) * value.element_size()
        if bucket and size + of_value > bucket_bytes:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, value))
        size += of_value
    if bucket:
        yield bucket
