"""A sampler whose replies have given lengths, so that both sides of `make bench` do the same work.

Each vLLM request ends after its own number of tokens and ignores the end of turn before that; its
last token is then replaced by the end of turn. Everything else of the sampler is the product's.
"""

import copy
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from rlhf_core.sampling.base import Sample, Sampler
from rlhf_core.sampling.vllm import VLLMSampler

Lengths = Callable[[], list[int]]  # of the next step's replies, tokens


class ForcedLengths(Sampler):
    """A sampler that ends each reply with the end of turn, at a given number of tokens."""

    def __init__(self, sampler: Sampler, lengths: Lengths):
        self.ranks_each = sampler.ranks_each
        self._sampler, self._lengths = sampler, lengths
        if isinstance(sampler, VLLMSampler):
            _end_requests(sampler._llm, lengths)

    @property
    def model(self) -> nn.Module | None:
        """The model that samples."""
        return self._sampler.model

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        """Return one response per prompt, of the given lengths at most."""
        samples = self._sampler.generate(prompts, seeds=seeds, eos_id=eos_id)
        return [
            _cut(sample, length, eos_id)
            for sample, length in zip(samples, self._lengths(), strict=True)
        ]

    def sleep(self) -> None:
        """Give the device's memory back, where so configured."""
        self._sampler.sleep()

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> float:
        """Replace the weights; return the seconds."""
        return self._sampler.sync(weights)

    def sync_adapter(self, save: Callable[[Path], None]) -> float:
        """Replace the adapter; return the seconds."""
        return self._sampler.sync_adapter(save)

    def close(self) -> None:
        """Give all memory back."""
        self._sampler.close()


def _cut(sample: Sample, length: int, eos_id: int) -> Sample:
    tokens, logprobs = sample.tokens[:length], sample.logprobs[:length]
    return Sample([*tokens[:-1], eos_id], logprobs, ended=True)


def _end_requests(llm: Any, lengths: Lengths) -> None:
    """Let each request of the engine end after its own number of tokens, and at no token id."""
    generate = llm.generate

    def with_lengths(inputs: list, parameters: Any, **options: Any) -> list:
        given = parameters if isinstance(parameters, list) else [parameters] * len(inputs)
        own = [copy.copy(one) for one in given]
        for one, length in zip(own, lengths(), strict=True):
            one.max_tokens, one.ignore_eos = length, True
            one.stop_token_ids = []
        return generate(inputs, own, **options)

    llm.generate = with_lengths
