"""Scores of replies by reward models and the independent scorer, and KL from the SFT model."""

from pathlib import Path

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, collate
from rlhf_core.batching.collective import summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.engine.base import Forward
from rlhf_core.evaluation.best_of_n import best
from rlhf_core.evaluation.replies import Replies, Setup
from rlhf_core.judging.functions import Scorer, call, conversation, with_messages
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.modeling.models import inference, load_policy
from rlhf_core.modeling.packed_attention import require_separation, without_padding
from rlhf_core.modeling.reading import own_reading
from rlhf_core.modeling.token_scores import TokenQuery
from rlhf_core.reward.scoring import score_sequences

ScoresByModel = dict[str, Tensor]  # (N,) by model


def reward_scores(setup: Setup, path: Path, replies: dict[str, Replies]) -> dict[str, Tensor]:
    """Return one reward model's scores of every model's replies, (M, N) float32 each.

    M: members of an ensemble, else 1. A reward model with another tokenizer or chat template than
    the model that replied reads the texts, rendered its own way. Otherwise it reads the tokens
    themselves. The same tokens have the same score: batches of other widths differ in the last
    bits, by which one of two equal replies would win.
    """
    pad_id = load_tokenizer(path).pad_token_id
    read = {name: _read(setup, path, name, replied) for name, replied in replies.items()}
    members, budget = [], setup.config.micro_batch_tokens
    packing = setup.config.packing
    for forward in load_members(path, **setup.frozen_model, packing=packing):
        members.append(
            {
                name: score_sequences(forward, found, pad_id, budget, packing=packing)
                for name, found in read.items()
            }
        )
        _repeat_first(members[-1], read)
    return {name: torch.stack([scores[name] for scores in members]) for name in replies}


def _repeat_first(scores: dict[str, Tensor], read: dict[str, list[Sequence]]) -> None:
    """Set each score to that of the first reply with the same tokens, in place."""
    first: dict[tuple, float] = {}
    for name, sequences in read.items():
        for i, one in enumerate(sequences):
            key = (tuple(one.prompt), tuple(one.response))
            scores[name][i] = first.setdefault(key, float(scores[name][i]))


def _read(setup: Setup, reward: Path, name: str, replied: Replies) -> list[Sequence]:
    """Return a model's replies as the reward model in the folder `reward` reads them."""
    reading = own_reading(reward, setup.tokenizer_of(name))
    if reading is None:
        return replied.sequences
    responses = [s.response for s in replied.sequences]
    return reading.sequences([row["prompt"] for row in setup.rows], responses, replied.ended)


def best_draws(setup: Setup, reward_model: Path, draws: list[Replies]) -> Replies:
    """Return the best draw for each prompt by the main reward model, an ensemble by its mean."""
    scored = reward_scores(setup, reward_model, {str(k): draw for k, draw in enumerate(draws)})
    return best(draws, torch.stack([scores_MN.mean(0) for scores_MN in scored.values()]))


def independent_scores(setup: Setup, scorer: Scorer, replies: dict[str, Replies]) -> ScoresByModel:
    """Return the independent scorer's scores of every model's replies, (N,) float64 each.

    The scorer reads the whole conversation before a reply.
    """
    prompts = [conversation(row["prompt"]) for row in setup.rows]
    bound = with_messages(scorer, [row["prompt"] for row in setup.rows], lists=2)
    values = {
        name: call(bound, "independent scorer", prompts, replied.texts)
        for name, replied in replies.items()
    }
    return {name: torch.tensor(found, dtype=torch.float64) for name, found in values.items()}


def load_frozen_policy(setup: Setup, path: Path) -> Forward:
    """Return the forward pass of a policy of the evaluation, padded or packed as the recipe says.

    Raises BadInput for a model that cannot read packed rows.
    """
    packing, dtype = setup.config.packing, setup.computed_dtype
    model = load_policy(path, logits_mib=setup.logits_mib, mapped=True)
    forward = inference(without_padding(model, on=packing, dtype=dtype), **setup.frozen_model)
    if packing:
        require_separation(
            lambda batch: forward(batch, query=TokenQuery()).logprobs_BR, dtype=dtype
        )
    return forward


def response_kl(
    setup: Setup, policy: Forward, reference: Forward, sequences: list[Sequence]
) -> tuple[Tensor, float]:
    """Return the sum of logpi - logpi_ref over each policy reply, (N,) nats, and their mean.

    Both use the temperature that the replies were sampled at. At another temperature the sum does
    not estimate a KL.
    """
    config = setup.config
    query = TokenQuery(config.sampling.temperature)
    kl_N, total_1 = torch.zeros(len(sequences)), torch.zeros(1, dtype=torch.float64)
    for rows, counts in own_microbatches(
        [s.size for s in sequences], config.micro_batch_tokens, packing=config.packing
    ):
        batch = collate([sequences[i] for i in rows], setup.tokenizer.pad_token_id)
        ours_BR, theirs_BR = (
            model(batch, query=query).logprobs_BR for model in (policy, reference)
        )
        kl_BR = (ours_BR - theirs_BR).masked_fill(~batch.response_mask_BR, 0.0)
        if counts:
            kl_N[rows] = kl_BR.sum(-1).cpu()
            total_1 += float(kl_BR.sum())
    return summed(kl_N), float(summed(total_1)) / len(sequences)
