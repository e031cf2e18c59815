"""The models' replies to the held-out prompts."""

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import Evaluate
from rlhf_core.data.render import render_prompt, reply_text
from rlhf_core.modeling.models import load_policy
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.draw import draw
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.seeds import reply_seeds


@dataclass(frozen=True)
class Replies:
    """One model's replies, one entry per prompt."""

    sequences: list[Sequence]
    texts: list[str]
    ended: list[bool]

    @property
    def tokens(self) -> list[int]:
        """Response tokens of each reply, EOS included."""
        return [len(s.response) for s in self.sequences]


@dataclass(frozen=True)
class Setup:
    """The prompts and settings that are the same for every model."""

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
    """Return every model's replies, and the SFT model's `best_of_n` replies to every prompt.

    The same prompt has the same seed for every model. Models of one architecture share one engine.
    The first of the draws is the SFT model's reply itself; there are no draws unless configured.
    """
    longest = max(map(len, setup.prompts))
    sampler: Sampler | None = None
    loaded: dict | None = None
    replies: dict[str, Replies] = {}
    draws: list[Replies] = []
    for name, path in models.items():
        architecture = _architecture(path)
        if sampler is None or architecture != loaded:
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
            numbers = range(1, setup.config.best_of_n)
            draws = [replies[name], *(_replied(setup, sampler, number) for number in numbers)]
    assert sampler is not None  # there is a policy at least
    sampler.sleep()
    return replies, draws


def _replied(setup: Setup, sampler: Sampler, number: int) -> Replies:
    seeds = reply_seeds(setup.seed, number, len(setup.prompts))
    samples = draw(sampler, setup.prompts, seeds=seeds, eos_id=setup.tokenizer.eos_token_id)
    sequences = [Sequence(p, s.tokens) for p, s in zip(setup.prompts, samples, strict=True)]
    texts = [reply_text(setup.tokenizer, s.tokens) for s in samples]
    return Replies(sequences, texts, [s.ended for s in samples])


def _architecture(path: Path) -> dict:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return {
        key: value
        for key, value in config.items()
        if key not in ("transformers_version", "_name_or_path")
    }
