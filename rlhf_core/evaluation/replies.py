"""What the models say to the held-out prompts, and what reward models and reference say to that."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Batch, Sequence, collate, encode
from rlhf_core.batching.collective import summed
from rlhf_core.batching.microbatches import own_microbatches
from rlhf_core.config import Evaluate
from rlhf_core.data.render import render_prompt
from rlhf_core.modeling.ensemble import load_members
from rlhf_core.modeling.models import load_policy, load_tokenizer
from rlhf_core.objectives.losses import tempered, token_logprobs
from rlhf_core.reward.scoring import score_sequences
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.draw import draw
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.seeds import reply_seeds


@dataclass(frozen=True)
class Replies:
    """One model's answers, one entry a prompt."""

    sequences: list[Sequence]
    texts: list[str]
    ended: list[bool]

    @property
    def tokens(self) -> list[int]:
        """Response tokens of each, EOS included."""
        return [len(s.response) for s in self.sequences]


@dataclass(frozen=True)
class Setup:
    """What every model is asked, and how."""

    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]
    config: Evaluate
    seed: int
    dtype: str

    @cached_property
    def prompts(self) -> list[list[int]]:
        """Token ids of the rendered prompts."""
        return [render_prompt(self.tokenizer, row["prompt"]) for row in self.rows]


def generate_replies(
    setup: Setup, models: dict[str, Path]
) -> tuple[dict[str, Replies], list[Replies]]:
    """Every model's replies, the same seed for the same prompt; models of one architecture share
    one engine.

    And the SFT model's `best_of_n` replies to every prompt, the one above first; none unless so
    configured.
    """
    longest = max(map(len, setup.prompts))
    sampler, loaded, replies, draws = None, None, {}, []
    for name, path in models.items():
        architecture = _architecture(path)
        if architecture != loaded:
            if sampler:
                sampler.close()
            sampler = open_sampler(
                path, setup.config.sampling, max_prompt_tokens=longest, dtype=setup.dtype
            )
            loaded = architecture
        else:
            sampler.sync(load_policy(path).model.state_dict().items())
        replies[name] = _replied(setup, sampler, 0)
        if name == "sft" and setup.config.best_of_n:
            draws = [
                replies[name],
                *(_replied(setup, sampler, number) for number in range(1, setup.config.best_of_n)),
            ]
    sampler.sleep()
    return replies, draws


def _replied(setup: Setup, sampler: Sampler, number: int) -> Replies:
    seeds = reply_seeds(setup.seed, number, len(setup.prompts))
    samples = draw(sampler, setup.prompts, seeds=seeds, eos_id=setup.tokenizer.eos_token_id)
    sequences = [Sequence(p, s.tokens) for p, s in zip(setup.prompts, samples, strict=True)]
    texts = [setup.tokenizer.decode(s.tokens, skip_special_tokens=True) for s in samples]
    return Replies(sequences, texts, [s.ended for s in samples])


def _architecture(path: Path) -> dict:
    config = json.loads((path / "config.json").read_text())
    return {
        key: value
        for key, value in config.items()
        if key not in ("transformers_version", "_name_or_path")
    }


def reward_scores(setup: Setup, path: Path, replies: dict[str, Replies]) -> dict[str, Tensor]:
    """One reward model's scores of every model's replies, (M, N) float32 each; M members of an
    ensemble, else 1.

    A reward model with another tokenizer or chat template than the policy reads the texts, rendered
    its own way and closed with its end of text; otherwise it reads the very tokens.
    """
    tokenizer, read = (
        load_tokenizer(path),
        {name: replied.sequences for name, replied in replies.items()},
    )
    if not _reads_the_same(tokenizer, setup.tokenizer):
        read = {name: _rendered(tokenizer, setup, replied) for name, replied in replies.items()}
    members = []
    for forward in load_members(path, dtype=setup.dtype, frozen=setup.config.frozen):
        budget = setup.config.micro_batch_tokens
        members.append(
            {
                name: score_sequences(forward, found, tokenizer.pad_token_id, budget)
                for name, found in read.items()
            }
        )
    return {name: torch.stack([scores[name] for scores in members]) for name in replies}


def _rendered(tokenizer: PreTrainedTokenizerBase, setup: Setup, replied: Replies) -> list[Sequence]:
    pairs = zip(setup.rows, replied.texts, strict=True)
    return encode(
        tokenizer, [{"prompt": row["prompt"], "reply": text} for row, text in pairs], "reply"
    )


def _reads_the_same(one: PreTrainedTokenizerBase, other: PreTrainedTokenizerBase) -> bool:
    return one.get_vocab() == other.get_vocab() and one.chat_template == other.chat_template


def response_kl(
    setup: Setup,
    policy: Callable[[Batch], Tensor],
    reference: Callable[[Batch], Tensor],
    sequences: list[Sequence],
) -> tuple[Tensor, float]:
    """Sum of logpi - logpi_ref over each of the policy's own replies, (N,) nats, and their mean;
    both at the temperature that the replies were sampled at: at another one the sum is no estimate
    of a KL.
    """
    temperature = setup.config.sampling.temperature
    kl_N, total_1 = torch.zeros(len(sequences)), torch.zeros(1, dtype=torch.float64)
    for rows, counts in own_microbatches(
        [s.size for s in sequences], setup.config.micro_batch_tokens
    ):
        batch = collate([sequences[i] for i in rows], setup.tokenizer.pad_token_id)
        ours_BR, theirs_BR = (
            token_logprobs(tempered(model(batch), temperature), batch.response_ids_BR)
            for model in (policy, reference)
        )
        kl_BR = (ours_BR - theirs_BR).masked_fill(~batch.response_mask_BR, 0.0)
        if counts:
            kl_N[rows] = kl_BR.sum(-1).cpu()
            total_1 += float(kl_BR.sum())
    return summed(kl_N), float(summed(total_1)) / len(sequences)
