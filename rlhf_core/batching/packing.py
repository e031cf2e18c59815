"""Several sequences in one row without padding, none of which sees another; and noise on what the
model reads (NEFTune).

Positions begin at 0 with each sequence. transformers takes positions that restart, without an
attention mask, for a row of several sequences, and lets attention stay inside each
(masking_utils.find_packed_sequence_indices; with flash attention the kernel does).
`require_separation` tries it on the very model, for one whose attention does not ask would mix
sequences.
"""

from collections.abc import Callable
from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.batching.batch import Batch, Sequence, device
from rlhf_core.errors import BadInput

SAME = 1e-3  # share of the largest logit; without crossing the change is 0, or rounding


@dataclass(frozen=True)
class PackedBatch:
    """One row of L tokens, T of them response tokens, which stand at places_T. Read by the model
    like a batch of one row.
    """

    ids_BL: Tensor
    position_ids_BL: Tensor
    places_T: Tensor

    @property
    def response_ids_BR(self) -> Tensor:
        return self.ids_BL[:, self.places_T]

    @property
    def response_mask_BR(self) -> Tensor:
        return torch.ones_like(self.response_ids_BR, dtype=torch.bool)


def pack(sequences: Seq[Sequence]) -> PackedBatch:
    """Sequences one after the other, on `device()`. Each needs a prompt and a response
    (ValueError).
    """
    if any(not s.prompt or not s.response for s in sequences):
        raise ValueError(
            "a sequence has an empty prompt or response; expected at least one token of each"
        )
    ids, positions, places = [], [], []
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
    """Raise BadInput when what the model makes of `second` changes with the text before it in the
    same row.

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
    """Uniform in [-1, 1] times alpha / sqrt(length * width), (B, L, D) (NEFTune: Jain et al. 2023,
    arXiv:2310.05914, alg. 1).

    seeds: one a sequence, in the batch's order, so that a sequence has the same noise in whatever
    batch; 0 at padding.
    """
    parts = [_of_one(len(s), width, alpha, seed) for s, seed in zip(sequences, seeds, strict=True)]
    if isinstance(batch, PackedBatch):
        return torch.cat(parts)[None].to(batch.ids_BL.device)
    noise_BLD = torch.zeros(*batch.mask_BL.shape, width)
    noise_BLD[batch.mask_BL.cpu()] = torch.cat(
        parts
    )  # rows in order, each one's real tokens in order
    return noise_BLD.to(batch.ids_BL.device)


def _of_one(length: int, width: int, alpha: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        (2 * torch.rand(length, width, generator=generator) - 1) * alpha / (length * width) ** 0.5
    )


def step_seed() -> int:
    """A seed for one step's noise, drawn from torch's generator, whose state is a part of every
    checkpoint.
    """
    return int(torch.randint(2**31, ()))
