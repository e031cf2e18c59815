"""Packing: the sequences of a batch in one row without padding, none of which sees another.

A model whose `packing` is on reads a padded batch as such a row, and gives its numbers in the
batch's own places. Positions begin at 0 with each sequence. rlhf_core/modeling/packed_attention.py
keeps attention inside each.
Also noise on the embeddings (NEFTune).
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, Sequence, TrainedSequence

_LENGTHS: ContextVar[list[int] | None] = ContextVar("lengths", default=None)


@dataclass(frozen=True)
class PackedBatch:
    """One row of L tokens, T of them response tokens, at places_T.

    lengths: tokens of each sequence.
    """

    ids_BL: Tensor
    position_ids_BL: Tensor
    places_T: Tensor
    lengths: list[int]

    @property
    def response_ids_BR(self) -> Tensor:
        """The token ids of all responses, (1, T)."""
        return self.ids_BL[:, self.places_T]

    @property
    def response_mask_BR(self) -> Tensor:
        """True at every place: there is no padding."""
        return torch.ones_like(self.response_ids_BR, dtype=torch.bool)


def packed(batch: Batch) -> PackedBatch:
    """Return the batch's sequences one after the other, in its order.

    Raises ValueError for an empty prompt: its first response token would be predicted from the
    sequence before.
    """
    mask_BL = batch.mask_BL
    P = mask_BL.shape[1] - batch.response_mask_BR.shape[1]
    if P == 0 or not mask_BL[:, P - 1].all():
        raise ValueError("a sequence has an empty prompt; expected at least one token")
    is_response_BL = mask_BL.clone()
    is_response_BL[:, :P] = False
    places_T = is_response_BL[mask_BL].nonzero().flatten()
    return PackedBatch(
        batch.ids_BL[mask_BL][None],
        batch.position_ids_BL[mask_BL][None],
        places_T,
        mask_BL.sum(-1).tolist(),
    )


@contextmanager
def reading(row: Batch | PackedBatch) -> Iterator[None]:
    """Let a model's attention know the lengths of a packed row's sequences while open."""
    token = _LENGTHS.set(row.lengths if isinstance(row, PackedBatch) else None)
    try:
        yield
    finally:
        _LENGTHS.reset(token)


def lengths_in_row() -> list[int] | None:
    """Return the lengths of the sequences in the row that is being read; None for a batch."""
    return _LENGTHS.get()


def in_places(values: Tensor, mask: Tensor) -> Tensor:
    """Return the numbers of a row at the True places of a mask, in order, and 0 elsewhere.

    values: one per True place, and further axes; mask: (B, R) or (B, L).
    """
    placed = values.new_zeros(*mask.shape, *values.shape[1:])
    placed[mask] = values
    return placed


def noise(
    batch: Batch, sequences: Seq[Sequence], *, alpha: float, width: int, seeds: Seq[int]
) -> Tensor:
    """Return uniform noise in [-1, 1] times alpha / sqrt(length * width), (B, L, D).

    NEFTune: Jain et al. 2023, arXiv:2310.05914, alg. 1. The noise is 0 at padding.
    seeds: one per sequence, in the batch's order, so that a sequence has the same noise in any
    batch.
    """
    parts = [_of_one(len(s), width, alpha, seed) for s, seed in zip(sequences, seeds, strict=True)]
    # rows and their real tokens in order
    return in_places(torch.cat(parts), batch.mask_BL.cpu()).to(batch.ids_BL.device)


def _of_one(length: int, width: int, alpha: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (2 * torch.rand(length, width, generator=generator) - 1) * alpha / (length * width) ** 0.5
    )


def trained_mask(batch: Batch, sequences: Seq[TrainedSequence]) -> Tensor:
    """Return the mask (B, R) of the response tokens that are trained.

    sequences: those of the batch, in its order.
    """
    # the real response tokens of rows in order are those of the sequences in order
    trained = [token for s in sequences for token in s.trained]
    real_BR = batch.response_mask_BR
    return in_places(torch.tensor(trained, device=real_BR.device), real_BR)
