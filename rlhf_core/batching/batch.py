"""Padded batches: prompts left-padded, responses right-padded.

So every response begins in the same column.
Axes: B rows, P prompt, R response, L = P + R. Masks: True is a real token.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.data.render import TrainOn, render_demonstration, render_prompt, render_response
from rlhf_core.seeds import epoch_seed

T = TypeVar("T")


def device() -> torch.device:
    """Return the device of this process's tensors and models: the accelerator, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@dataclass(frozen=True)
class Sequence:
    """Token ids of one prompt and one response (its EOS included when it has one)."""

    prompt: list[int]
    response: list[int]

    def __len__(self) -> int:
        return len(self.prompt) + len(self.response)

    @property
    def size(self) -> tuple[int, int]:
        """Prompt and response tokens."""
        return len(self.prompt), len(self.response)


@dataclass(frozen=True)
class TrainedSequence(Sequence):
    """A dialogue whose response may hold further prompts; trained: one per response token."""

    trained: list[bool]


@dataclass(frozen=True)
class Batch:
    """Sequences as tensors: ids and mask over B x L, and the mask of response tokens over B x R."""

    ids_BL: Tensor
    mask_BL: Tensor
    response_mask_BR: Tensor

    @property
    def response_ids_BR(self) -> Tensor:
        """The token ids of the responses."""
        return self.ids_BL[:, -self.response_mask_BR.shape[1] :]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Prompt and response tokens of each row."""
        response_B = self.response_mask_BR.sum(-1)
        prompt_B = self.mask_BL.sum(-1) - response_B
        return list(zip(prompt_B.tolist(), response_B.tolist(), strict=True))

    @property
    def prompts(self) -> list[tuple[int, ...]]:
        """The token ids of each row's prompt."""
        P = self.ids_BL.shape[1] - self.response_mask_BR.shape[1]
        rows = zip(self.ids_BL[:, :P], self.mask_BL[:, :P], strict=True)
        return [tuple(ids_P[mask_P].tolist()) for ids_P, mask_P in rows]

    def to(self, device: torch.device) -> "Batch":
        """Return the batch on another device."""
        masks = self.mask_BL.to(device), self.response_mask_BR.to(device)
        return Batch(self.ids_BL.to(device), *masks)

    @property
    def position_ids_BL(self) -> Tensor:
        """Positions counted from the first real token, so that padding moves nothing."""
        return (self.mask_BL.long().cumsum(-1) - 1).clamp(min=0)


def collate(sequences: Seq[Sequence], pad_id: int) -> Batch:
    """Pad sequences into one batch on `device()`. Raises ValueError for an empty response."""
    if any(not s.response for s in sequences):
        raise ValueError("a sequence has an empty response; expected at least an EOS token")
    P = max(len(s.prompt) for s in sequences)
    R = max(len(s.response) for s in sequences)
    ids_BL = torch.full((len(sequences), P + R), pad_id)
    mask_BL = torch.zeros((len(sequences), P + R), dtype=torch.bool)
    for row, s in enumerate(sequences):
        start, end = P - len(s.prompt), P + len(s.response)
        ids_BL[row, start:end] = torch.tensor(s.prompt + s.response)
        mask_BL[row, start:end] = True
    ids_BL, mask_BL = ids_BL.to(device()), mask_BL.to(device())
    return Batch(ids_BL, mask_BL, mask_BL[:, P:])


def encode(tokenizer: PreTrainedTokenizerBase, rows: Seq[dict], field: str) -> list[Sequence]:
    """Render rows through the chat template into token ids.

    A row gives its `prompt` messages and, as the response, the text in `field`.
    """
    return [
        Sequence(render_prompt(tokenizer, r["prompt"]), render_response(tokenizer, r[field]))
        for r in rows
    ]


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase, rows: Seq[dict], train_on: TrainOn
) -> list[TrainedSequence]:
    """Render demonstrations into token ids, with the answers of which each is to be learnt."""
    return [
        TrainedSequence(found.prompt, found.response, found.trained)
        for row in rows
        for found in render_demonstration(
            tokenizer, row["prompt"], row["response"], train_on=train_on
        )
    ]


def order(count: int, *, seed: int, epoch: int) -> list[int]:
    """Return a permutation of range(count).

    It is a function of seed and epoch alone, so that a resumed stage sees the same.
    """
    return _permutation(count, seed, epoch).tolist()


def order_part(count: int, start: int, stop: int, *, seed: int, epoch: int) -> list[int]:
    """Return `order(count, seed=seed, epoch=epoch)[start:stop]`, without a list of all."""
    return _permutation(count, seed, epoch)[start:stop].tolist()


@lru_cache(maxsize=2)  # the steps of one epoch, or of the last and the next, ask for the same
def _permutation(count: int, seed: int, epoch: int) -> Tensor:
    generator = torch.Generator().manual_seed(epoch_seed(seed, epoch))
    return torch.randperm(count, generator=generator)


def places(count: int, limit: int | None, *, seed: int) -> Seq[int]:
    """Return at most `limit` places below `count`, ascending, drawn without replacement by `seed`.

    All of them when there are no more than `limit`.
    """
    if limit is None or count <= limit:
        return range(count)
    return sorted(order(count, seed=seed, epoch=0)[:limit])


def subset(rows: Seq[T], limit: int | None, *, seed: int) -> list[T]:
    """Return the rows at `places`, which keep their order."""
    return [rows[i] for i in places(len(rows), limit, seed=seed)]


def select(batch: Batch, rows: Seq[int]) -> Batch:
    """Return some rows of a batch, without the columns that are padding in all of them."""
    index = torch.as_tensor(list(rows))
    mask_BL, response_mask_BR = batch.mask_BL[index], batch.response_mask_BR[index]
    P = mask_BL.shape[1] - response_mask_BR.shape[1]
    R = int(response_mask_BR.sum(-1).max())
    first = int(mask_BL[:, :P].int().argmax(-1).min())
    columns = slice(first, P + R)
    return Batch(batch.ids_BL[index][:, columns], mask_BL[:, columns], response_mask_BR[:, :R])
