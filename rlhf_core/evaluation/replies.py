"""The models' replies to the held-out prompts."""

import json
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from rlhf_core.batching.batch import Sequence
from rlhf_core.config import LOGITS_MIB, Evaluate
from rlhf_core.config.recipe import Dtype
from rlhf_core.data.render import render_prompt, reply_text
from rlhf_core.modeling.half import computed_dtype
from rlhf_core.modeling.models import FrozenModel, load_policy
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.draw import draw
from rlhf_core.sampling.factory import open_sampler
from rlhf_core.sampling.stops import stop_ids_of
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
    """The prompts and settings that are the same for every model.

    tokenizer: that of the policy and the SFT model. others: those of further models, by name.
    drawn_by: the seed that draws judged prompts, None for `seed`. It is data.split_seed, so that
    runs of other seeds judge the same prompts.
    """

    tokenizer: PreTrainedTokenizerBase
    rows: list[dict]
    config: Evaluate
    seed: int
    dtype: str
    others: dict[str, PreTrainedTokenizerBase] = field(default_factory=dict)
    drawn_by: int | None = None
    logits_mib: int = LOGITS_MIB
    frozen_dtype: Dtype | None = None

    @property
    def frozen_model(self) -> FrozenModel:
        """The options of `inference` for every model of the evaluation."""
        return {"dtype": self.dtype, "frozen": self.config.frozen, "weights": self.frozen_dtype}

    @property
    def computed_dtype(self) -> str:
        """The number type of the matrix products of every model of the evaluation."""
        return computed_dtype(self.dtype, self.frozen_dtype)

    def tokenizer_of(self, name: str) -> PreTrainedTokenizerBase:
        """Return the tokenizer by which a model is prompted and its replies are read."""
        return self.others.get(name, self.tokenizer)

    def prompts_of(self, name: str) -> list[list[int]]:
        """Return the token ids of the prompts, rendered by the model's own template."""
        tokenizer = self.tokenizer_of(name)
        return [render_prompt(tokenizer, row["prompt"]) for row in self.rows]


def generate_replies(
    setup: Setup, models: dict[str, Path]
) -> tuple[dict[str, Replies], list[Replies]]:
    """Return every model's replies, and the SFT model's `best_of_n` replies to every prompt.

    The same prompt has the same seed for every model, and is rendered by the model's own template.
    Models of one architecture that stop at the same ids share one engine.
    The first of the draws is the SFT model's reply itself; there are no draws unless configured.
    """
    prompts = {name: setup.prompts_of(name) for name in models}
    longest = max(len(prompt) for own in prompts.values() for prompt in own)
    sampler: Sampler | None = None
    loaded: tuple[dict, frozenset[int]] | None = None
    replies: dict[str, Replies] = {}
    draws: list[Replies] = []
    for name, path in models.items():
        architecture = _architecture(path), stop_ids_of(path)
        if sampler is None or architecture != loaded:
            if sampler:
                sampler.close()
            sampler = open_sampler(
                path, setup.config.sampling, max_prompt_tokens=longest, dtype=setup.dtype
            )
            loaded = architecture
        else:
            sampler.sync(load_policy(path).model.state_dict().items())
        replied = partial(_replied, setup, sampler, setup.tokenizer_of(name), prompts[name])
        replies[name] = replied(0)
        if name == "sft" and setup.config.best_of_n:
            numbers = range(1, setup.config.best_of_n)
            draws = [replies[name], *map(replied, numbers)]
    assert sampler is not None  # there is a policy at least
    sampler.sleep()
    return replies, draws


def _replied(
    setup: Setup,
    sampler: Sampler,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    number: int,
) -> Replies:
    seeds = reply_seeds(setup.seed, number, len(prompts))
    samples = draw(sampler, prompts, seeds=seeds, eos_id=tokenizer.eos_token_id)
    sequences = [Sequence(p, s.tokens) for p, s in zip(prompts, samples, strict=True)]
    texts = [reply_text(tokenizer, s.tokens) for s in samples]
    return Replies(sequences, texts, [s.ended for s in samples])


def _architecture(path: Path) -> dict:
    config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    return {
        key: value
        for key, value in config.items()
        if key not in ("transformers_version", "_name_or_path")
    }
