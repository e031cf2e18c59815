"""Samplers: what the stages ask of whatever answers prompts."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn


@dataclass(frozen=True)
class Sample:
    """One generated response: token ids (EOS included) and the sampler's log-probabilities."""

    tokens: list[int]
    logprobs: list[float]  # one per token, nats
    ended: bool  # by eos_id or an id of generation_config, not by the length limit


class Sampler(Protocol):
    """A copy of the policy that answers prompts, and takes new weights."""

    ranks_each: int  # neighbouring ranks that share one sampler and answer the same prompts

    @property
    def model(self) -> nn.Module | None:
        """The model that samples; None when it is in another process."""

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        """Return one response per prompt: a function of weights, prompt and its own seed.

        A response ends with eos_id, the tokenizer's end of turn, or with an id at which the model
        folder's generation_config stops.
        """

    def sleep(self) -> None:
        """Give the device's memory back until the next `sync`, where so configured."""

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> float:
        """Replace the weights by named tensors of the model's checkpoint format; return seconds.

        weights: may be iterated more than once.
        """

    def sync_adapter(self, save: Callable[[Path], None]) -> float:
        """Replace the adapter by the one that `save` writes into a folder; return the seconds.

        The folder gets PEFT's format. Only samplers that were opened for an adapter can.
        """

    def close(self) -> None:
        """Give all memory back; the sampler is not used again."""
