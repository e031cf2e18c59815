"""Comparisons as sequences, and scores of sequences by a reward model."""

from collections.abc import Iterable
from collections.abc import Sequence as Seq

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.collective import summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.data.render import render_prompt, render_responses
from rlhf_core.engine.base import Forward
from rlhf_core.modeling.models import final_scores


def pair_sequences(tokenizer: PreTrainedTokenizerBase, rows: Seq[dict]) -> list[Sequence]:
    """Return comparisons as token ids, chosen and rejected in turn."""
    answers = [text for row in rows for text in (row["chosen"], row["rejected"])]
    responses = render_responses(tokenizer, answers)
    prompts = [prompt for row in rows for prompt in [render_prompt(tokenizer, row["prompt"])] * 2]
    return [Sequence(*parts) for parts in zip(prompts, responses, strict=True)]


def member_scores(
    members: Iterable[Forward],
    sequences: Seq[Sequence],
    pad_id: int,
    token_budget: int,
    *,
    packing: bool = False,
    share_prompts: bool = False,
) -> Tensor:
    """Return each member's score of every sequence, (M, N) float32, in the order given.

    packing: the members read batches without padding, so that it takes no part of the budget.
    share_prompts: they read a prompt once for neighbours, so that sequences of one prompt go
    together.
    """
    how = {"packing": packing, "share_prompts": share_prompts}
    scored = [
        score_sequences(forward, sequences, pad_id, token_budget, **how) for forward in members
    ]
    return torch.stack(scored)


def score_sequences(
    forward: Forward,
    sequences: Seq[Sequence],
    pad_id: int,
    token_budget: int,
    *,
    packing: bool = False,
    share_prompts: bool = False,
) -> Tensor:
    """Return the score of every sequence at its last token, (N,) float32, in the order given.

    packing, share_prompts: as of `member_scores`.
    """
    scores_N, sizes = torch.zeros(len(sequences)), [s.size for s in sequences]
    prompts = [tuple(s.prompt) for s in sequences] if share_prompts else None
    for rows, counts in own_microbatches(sizes, token_budget, packing=packing, prompts=prompts):
        batch = collate([sequences[i] for i in rows], pad_id)
        scores_B = final_scores(forward(batch), batch.response_mask_BR)
        if counts:
            scores_N[rows] = scores_B.float().cpu()
    return summed(scores_N)
