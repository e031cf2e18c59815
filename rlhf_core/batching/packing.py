"""Packing: several sequences in one row without padding, none of which sees another.

Also noise on the embeddings (NEFTune).
Positions begin at 0 with each sequence. transformers takes positions that restart, without an
attention mask, as a row of several sequences, and keeps attention inside each
(masking_utils.find_packed_sequence_indices; with flash attention the kernel does).
`require_separation` tries it on the very model: one whose attention ignores positions would mix
sequences.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, Sequence, TrainedSequence, device
from rlhf_core.errors import BadInput

SAME = 1e-3  # share of the largest logit; without crossing the change is 0, or rounding


@dataclass(frozen=True)
class PackedBatch:
    """One row of L tokens, T of them response tokens, at places_T.

    The model reads it like a batch of one row.
    """

    ids_BL: Tensor
    position_ids_BL: Tensor
    places_T: Tensor

    @property
    def response_ids_BR(self) -> Tensor:
        """The token ids of all responses, (1, T)."""
        return self.ids_BL[:, self.places_T]

    @property
    def response_mask_BR(self) -> Tensor:
        """True at every place: there is no padding."""
        return torch.ones_like(self.response_ids_BR, dtype=torch.bool)


def pack(sequences: Seq[Sequence]) -> PackedBatch:
    """Put sequences one after the other, on `device()`.

    Raises ValueError for an empty prompt or response.
    """
    if any(not s.prompt or not s.response for s in sequences):
        raise ValueError(
            "a sequence has an empty prompt or response; expected at least one token of each"
        )
    ids: list[int] = []
    positions: list[int] = []
    places: list[int] = []
    for s in sequences:
        places += range(len(ids) + len(s.prompt), len(ids) + len(s))
        ids += s.prompt + s.response
        positions += range(len(s))
    row, where = torch.tensor([ids, positions], device=device())
    return PackedBatch(row[None], where[None], torch.tensor(places, device=device()))


@torch.no_grad()
def require_separation(
    forward: Callable[[PackedBatch], Tensor], first: Sequence, second: Sequence
) -> None:
    """Raise BadInput when the logits of `second` change with the text before it in the same row.

    forward: logits at response tokens.
    """
    other = Sequence(
        [second.prompt[0]] * len(first.prompt), [second.response[0]] * len(first.response)
    )
    one, same = (
        forward(pack([before, second]))[:, len(first.response) :].float()
        for before in (first, other)
    )
    difference = float((one - same).abs().max())
    if difference > SAME * max(1.0, float(one.abs().max())):
        raise BadInput(
            "sft.packing: this model's attention crosses between demonstrations (logits change by"
            f" {difference:.3g}); expected none. Set sft.packing = false."
        )


def noise(
    batch: Batch | PackedBatch,
    sequences: Seq[Sequence],
    *,
    alpha: float,
    width: int,
    seeds: Seq[int],
) -> Tensor:
    """Return uniform noise in [-1, 1] times alpha / sqrt(length * width), (B, L, D).

    NEFTune: Jain et al. 2023, arXiv:2310.05914, alg. 1. The noise is 0 at padding.
    seeds: one per sequence, in the batch's order, so that a sequence has the same noise in any
    batch.
    """
    parts = [_of_one(len(s), width, alpha, seed) for s, seed in zip(sequences, seeds, strict=True)]
    if isinstance(batch, PackedBatch):
        return torch.cat(parts)[None].to(batch.ids_BL.device)
    noise_BLD = torch.zeros(*batch.mask_BL.shape, width)
    noise_BLD[batch.mask_BL.cpu()] = torch.cat(parts)  # rows and their real tokens in order
    return noise_BLD.to(batch.ids_BL.device)


def _of_one(length: int, width: int, alpha: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (2 * torch.rand(length, width, generator=generator) - 1) * alpha / (length * width) ** 0.5
    )


def trained_mask(batch: Batch | PackedBatch, sequences: Seq[TrainedSequence]) -> Tensor:
    """Return the mask (B, R) of the response tokens that are trained.

    sequences: those of the batch, in its order.
    """
    real_BR = batch.response_mask_BR
    trained_BR = torch.zeros_like(real_BR)
    # the real response tokens of rows in order are those of the sequences in order
    trained = [token for s in sequences for token in s.trained]
    trained_BR[real_BR] = torch.tensor(trained, device=real_BR.device)
    return trained_BR
