"""Rows of a stage's batch, token by token: what the stage reads, what it trains, where it scores.

The tokens come from the batch that the stage itself would make of the rows.
"""

from collections.abc import Sequence as Seq
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Batch, Sequence, TrainedSequence, collate
from rlhf_core.batching.packing import trained_mask
from rlhf_core.data.render import token_text
from rlhf_core.inspection.shown import InspectedRow
from rlhf_core.modeling.models import final_scores


@dataclass(frozen=True)
class RowUse:
    """The kind of a row, and what its stage does with it.

    trains: the loss has a term at each response token, in a demonstration at those of its answers.
    scores: the reward model's score is read.
    """

    name: str
    trains: bool = False
    scores: bool = False


def rows_of_batch(
    tokenizer: PreTrainedTokenizerBase,
    sequences: Seq[Sequence],
    records: list[str],
    kinds: list[RowUse],
) -> list[InspectedRow]:
    """Return the rows of the batch that a stage makes of these sequences.

    kinds: repeated over the rows, e.g. chosen, rejected.
    """
    batch = collate(sequences, tokenizer.pad_token_id)
    dialogues = [s for s in sequences if isinstance(s, TrainedSequence)]
    trained_BR = trained_mask(batch, dialogues) if dialogues else batch.response_mask_BR
    return [
        _row(tokenizer, batch, trained_BR, place, (record, kinds[place % len(kinds)]))
        for place, record in enumerate(records)
    ]


def prompt_row(tokenizer: PreTrainedTokenizerBase, ids: list[int], record: str) -> InspectedRow:
    """Return a prompt that the policy answers."""
    return InspectedRow("prompt", record, ids, _texts(tokenizer, ids), len(ids), [False] * len(ids))


def _row(
    tokenizer: PreTrainedTokenizerBase,
    batch: Batch,
    trained_BR: Tensor,
    place: int,
    use: tuple[str, RowUse],
) -> InspectedRow:
    record, kind = use
    real_L = batch.mask_BL[place]
    ids = batch.ids_BL[place][real_L].tolist()
    trained_L = torch.zeros_like(real_L)
    if kind.trains:
        trained_L[-trained_BR.shape[1] :] = trained_BR[place]
    _, response = batch.sizes[place]
    last = len(ids) - response + _scored_column(batch, place) - 1
    return InspectedRow(
        kind=kind.name,
        record=record,
        ids=ids,
        texts=_texts(tokenizer, ids),
        prompt=len(ids) - response,
        trained=trained_L[real_L].tolist(),
        score_at=last if kind.scores else None,
        ends_at=last if ids[last] == tokenizer.eos_token_id else None,
    )


def _scored_column(batch: Batch, place: int) -> int:
    """Return the response tokens before the score that final_scores takes of a row."""
    columns_BR1 = torch.arange(batch.response_mask_BR.shape[1] + 1).repeat(len(batch.ids_BL), 1)
    return int(final_scores(columns_BR1, batch.response_mask_BR.cpu())[place])


def _texts(tokenizer: PreTrainedTokenizerBase, ids: list[int]) -> list[str]:
    return [token_text(tokenizer, token) for token in ids]
