"""Packing: the sequences of a batch in one row without padding, none of which sees another.

A model whose `packing` is on reads a padded batch as such a row, and gives its numbers in the
batch's own shape. Positions begin at 0 with each sequence. rlhf_core/modeling/packed_attention.py
keeps attention inside each. With shared prompts, neighbours with the same prompt have one copy of
it in the row; each attends to that copy and to its own response.
Also noise on the embeddings (NEFTune).
Axes: B rows, P prompt, R response, T real response tokens of all rows, N real tokens of all rows; L
tokens of the batch's columns or of the packed row.
"""

from collections.abc import Iterator
from collections.abc import Sequence as Seq
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, Sequence, TrainedSequence


class Span(NamedTuple):
    """The tokens that one sequence has in a packed row, without the part that it shares.

    shared: prompt tokens read from the nearest earlier sequence that holds its own prompt.
    """

    tokens: int
    shared: int = 0


_SPANS: ContextVar[list[Span] | None] = ContextVar("spans", default=None)


@dataclass(frozen=True)
class PackedBatch:
    """One row of L tokens.

    token_index_N: the index in the row of each of the batch's real tokens, row by row; several
    sequences may have a prompt's index in common. response_index_T: those of response tokens.
    predicting_index_T: those of the tokens from which response tokens are predicted. spans: the
    tokens of each sequence in the row.
    """

    ids_BL: Tensor
    position_ids_BL: Tensor
    token_index_N: Tensor
    response_index_T: Tensor
    predicting_index_T: Tensor
    spans: list[Span]

    @property
    def response_ids_BR(self) -> Tensor:
        """The token ids of all responses, (1, T)."""
        return self.ids_BL[:, self.response_index_T]

    @property
    def response_mask_BR(self) -> Tensor:
        """True everywhere: there is no padding."""
        return torch.ones_like(self.response_ids_BR, dtype=torch.bool)


def packed(batch: Batch, *, share_prompts: bool = False) -> PackedBatch:
    """Return the batch's sequences one after the other, in its order.

    share_prompts: the row has one copy of a prompt that neighbours have in common.
    Raises ValueError for an empty prompt: its first response token would be predicted from the
    sequence before.
    """
    mask_BL, response_mask_BR = batch.mask_BL, batch.response_mask_BR
    P = mask_BL.shape[1] - response_mask_BR.shape[1]
    if P == 0 or not mask_BL[:, P - 1].all():
        raise ValueError("a sequence has an empty prompt; expected at least one token")
    shares_B = torch.zeros_like(mask_BL[:, 0])
    if share_prompts:
        shares_B[1:] = _same_prompt_as_before(batch, P)
    in_row_BL = mask_BL.clone()
    in_row_BL[shares_B, :P] = False
    index_BL = (in_row_BL.flatten().cumsum(0) - 1).view_as(mask_BL)
    rows_B = torch.arange(len(mask_BL), device=mask_BL.device)
    with_prompt_B = rows_B.masked_fill(shares_B, 0).cummax(0).values  # whose copy each row reads
    index_BL[:, :P] = index_BL[with_prompt_B, :P]
    shared_B = mask_BL[:, :P].sum(-1) * shares_B
    return PackedBatch(
        batch.ids_BL[in_row_BL][None],
        batch.position_ids_BL[in_row_BL][None],
        index_BL[mask_BL],
        index_BL[:, P:][response_mask_BR],
        index_BL[:, P - 1 : -1][response_mask_BR],
        list(map(Span, in_row_BL.sum(-1).tolist(), shared_B.tolist())),
    )


def _same_prompt_as_before(batch: Batch, width: int) -> Tensor:
    """Return True for each row but the first whose prompt is that of the row before, (B - 1,)."""
    mask_BP = batch.mask_BL[:, :width]
    ids_BP = batch.ids_BL[:, :width].masked_fill(~mask_BP, -1)
    return (ids_BP[1:] == ids_BP[:-1]).all(-1)


@contextmanager
def reading(row: Batch | PackedBatch) -> Iterator[None]:
    """Let a model's attention know the spans of a packed row's sequences while open."""
    token = _SPANS.set(row.spans if isinstance(row, PackedBatch) else None)
    try:
        yield
    finally:
        _SPANS.reset(token)


def spans_in_row() -> list[Span] | None:
    """Return the spans of the sequences in the row that is being read; None for a batch."""
    return _SPANS.get()


def unpacked(values: Tensor, mask: Tensor) -> Tensor:
    """Return numbers of real tokens where a mask is True, in order, and 0 elsewhere.

    values: one per True entry, and further axes; mask: (B, R) or (B, L).
    """
    padded = values.new_zeros(*mask.shape, *values.shape[1:])
    padded[mask] = values
    return padded


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
    return unpacked(torch.cat(parts), batch.mask_BL.cpu()).to(batch.ids_BL.device)


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
    return unpacked(torch.tensor(trained, device=real_BR.device), real_BR)
