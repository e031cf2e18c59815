"""Padded batches: prompts left-padded, responses right-padded, so that every response begins in the
same column.

Axes: B rows, P prompt, R response, L = P + R. Masks: True is a real token.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor

from rlhf_core.data.render import render_prompt, render_response
from rlhf_core.ranks import rank, ranks


def device() -> torch.device:
    """Where tensors and models of this process live: the accelerator when there is one, else the
    CPU.
    """
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
class Batch:
    """Sequences as tensors: ids and mask over B x L, and the mask of response tokens over B x R."""

    ids_BL: Tensor
    mask_BL: Tensor
    response_mask_BR: Tensor

    @property
    def response_ids_BR(self) -> Tensor:
        return self.ids_BL[:, -self.response_mask_BR.shape[1] :]

    @property
    def sizes(self) -> list[tuple[int, int]]:
        """Prompt and response tokens of each row."""
        response_B = self.response_mask_BR.sum(-1)
        prompt_B = self.mask_BL.sum(-1) - response_B
        return list(zip(prompt_B.tolist(), response_B.tolist(), strict=True))

    @property
    def position_ids_BL(self) -> Tensor:
        """Positions counted from the first real token, so that padding moves nothing."""
        return (self.mask_BL.long().cumsum(-1) - 1).clamp(min=0)


def collate(sequences: Seq[Sequence], pad_id: int) -> Batch:
    """Pad sequences into one batch on `device()`. Empty responses are not allowed (ValueError)."""
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


def microbatches(
    sizes: Seq[tuple[int, int]], token_budget: int, *, group: int = 1
) -> list[list[int]]:
    """Indices in microbatches of similar length, at most `token_budget` tokens each, padding
    included.

    sizes: (prompt, response) tokens of each sequence. group: so many neighbours (a chosen and its
    rejected answer) stay together. A group over the budget is a microbatch of its own.
    """
    groups = [list(range(i, i + group)) for i in range(0, len(sizes), group)]
    groups.sort(key=lambda g: (max(sum(sizes[i]) for i in g), g[0]))
    result: list[list[int]] = []
    for indices in groups:
        merged = [*result[-1], *indices] if result else indices
        if result and _padded_tokens([sizes[i] for i in merged]) <= token_budget:
            result[-1] = merged
        else:
            result.append(list(indices))
    return result


def own_microbatches(
    sizes: Seq[tuple[int, int]], token_budget: int, *, group: int = 1
) -> list[tuple[list[int], bool]]:
    """This rank's microbatches of a step whose rows every rank knows, each with whether it counts.

    Arguments as of `microbatches`. All ranks get equally many, since a pass through a sharded model
    waits for every rank: one with fewer repeats the step's first group, which is to add nothing
    (False).
    """
    plans = [
        _microbatches_of(share, sizes, token_budget, group)
        for share in shares(sizes, ranks(), group=group)
    ]
    own = plans[rank()]
    idle = max(map(len, plans)) - len(own)
    return [(rows, True) for rows in own] + [(list(range(group)), False)] * idle


def shares(sizes: Seq[tuple[int, int]], count: int, *, group: int = 1) -> list[list[int]]:
    """Indices of each of `count` ranks, in ascending order, with about as many tokens each; groups
    stay together.

    Groups are dealt out from the longest on, back and forth: 0 1 2 2 1 0 0 1 ...
    """
    starts = sorted(
        range(0, len(sizes), group),
        key=lambda i: (-max(sum(sizes[k]) for k in range(i, i + group)), i),
    )
    dealt: list[list[int]] = [[] for _ in range(count)]
    for place, start in enumerate(starts):
        turn, position = divmod(place, count)
        dealt[position if turn % 2 == 0 else count - 1 - position].append(start)
    return [[k for start in sorted(part) for k in range(start, start + group)] for part in dealt]


def _microbatches_of(
    rows: list[int], sizes: Seq[tuple[int, int]], token_budget: int, group: int
) -> list[list[int]]:
    return [
        [rows[i] for i in part]
        for part in microbatches([sizes[row] for row in rows], token_budget, group=group)
    ]


def _padded_tokens(sizes: Seq[tuple[int, int]]) -> int:
    return len(sizes) * (max(p for p, _ in sizes) + max(r for _, r in sizes))


def encode(tokenizer, rows: Seq[dict], field: str) -> list[Sequence]:
    """Render rows' `prompt` messages and the text in `field` through the chat template into token
    ids.
    """
    return [
        Sequence(render_prompt(tokenizer, r["prompt"]), render_response(tokenizer, r[field]))
        for r in rows
    ]


def order(count: int, *, seed: int, epoch: int) -> list[int]:
    """A permutation of range(count), a function of seed and epoch alone, so that a resumed stage
    sees the same.
    """
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(count, generator=generator).tolist()


def subset(rows: list, limit: int | None, *, seed: int) -> list:
    """At most `limit` rows, drawn without replacement by `seed`; all of them, in their order, when
    they are fewer.
    """
    if limit is None or len(rows) <= limit:
        return rows
    return [rows[i] for i in sorted(order(len(rows), seed=seed, epoch=0)[:limit])]


def select(batch: Batch, rows: Seq[int]) -> Batch:
    """Some rows of a batch, with the columns trimmed that are padding in all of them."""
    index = torch.as_tensor(list(rows))
    mask_BL, response_mask_BR = batch.mask_BL[index], batch.response_mask_BR[index]
    P = mask_BL.shape[1] - response_mask_BR.shape[1]
    R = int(response_mask_BR.sum(-1).max())
    first = int(mask_BL[:, :P].int().argmax(-1).min())
    columns = slice(first, P + R)
    return Batch(batch.ids_BL[index][:, columns], mask_BL[:, columns], response_mask_BR[:, :R])
