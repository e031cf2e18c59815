"""Rollouts: prompts in, sampled responses out."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from rlhf_core.batching.batch import Sequence, order, order_part
from rlhf_core.errors import BadInput
from rlhf_core.ppo.prompts import Prompt
from rlhf_core.sampling.base import Sample, Sampler
from rlhf_core.sampling.draw import draw
from rlhf_core.seeds import rollout_seeds

Scores = list[float] | list[list[float]]  # one per response, or one per token of each


@dataclass(frozen=True)
class Selection:
    """The account of dynamic sampling for one step."""

    rounds: int
    groups_dropped: int
    tokens_dropped: int  # response tokens of the dropped groups
    score_mean: float  # over all responses, those of dropped groups included
    seconds: float  # reward passes that decided which groups stay
    functions: list[Scores]  # the kept responses' scores by each reward function


@dataclass(frozen=True)
class Rollout:
    """One step's responses, one entry per prompt."""

    sequences: list[Sequence]
    sampler_logprobs: list[list[float]]  # nats, one per response token
    ended: list[bool]  # by end-of-text
    seconds: float
    records: tuple[dict, ...] = ()  # the prompts' records, for reward functions
    age: int = 0  # steps that the actor has learned since the weights that generated every row
    cursor: int = 0  # place in the seeded order of prompts at which the next step goes on
    selection: Selection | None = None  # None: without dynamic sampling
    waited: float | None = None  # seconds that the learner waited for it; None: all of `seconds`

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(s.response) for s in self.sequences)


@dataclass(frozen=True)
class Generated:
    """One step's responses that wait to be learned from, as a checkpoint keeps them."""

    samples: list[Sample]
    seconds: float  # in which they were generated

    def tensors(self) -> dict[str, Tensor]:
        """Return the responses as tensors, which keep every bit of a log-probability."""
        return {
            "tokens": torch.tensor([id for s in self.samples for id in s.tokens]),
            "lengths": torch.tensor([len(s.tokens) for s in self.samples]),
            "logprobs": torch.tensor(
                [value for s in self.samples for value in s.logprobs], dtype=torch.float64
            ),
            "ended": torch.tensor([s.ended for s in self.samples]),
            "seconds": torch.tensor(self.seconds, dtype=torch.float64),
        }

    @classmethod
    def of(cls, tensors: Mapping[str, Tensor]) -> "Generated":
        """Return the responses that `tensors` gave."""
        lengths = tensors["lengths"].tolist()
        parts = (tensors[name].split(lengths) for name in ("tokens", "logprobs"))
        samples = [
            Sample(tokens_R.tolist(), logprobs_R.tolist(), ended)
            for tokens_R, logprobs_R, ended in zip(*parts, tensors["ended"].tolist(), strict=True)
        ]
        return cls(samples, float(tensors["seconds"]))


def indices_from(prompts: int, cursor: int, count: int, *, seed: int) -> list[int]:
    """Return the indices of the next `count` prompts, out of `prompts`, from place `cursor` on.

    Steps go through epochs of a seeded order; the result is a function of place and seed alone.
    """
    picked, end = [], cursor + count
    while cursor < end:
        epoch, start = divmod(cursor, prompts)
        stop = min(prompts, start + end - cursor)
        picked += order_part(prompts, start, stop, seed=seed, epoch=epoch)
        cursor += stop - start
    return picked


def left_out(prompts: int, wanted: int, *, seed: int) -> set[int]:
    """Return the places of the `wanted` prompts, out of `prompts`, that PPO leaves out.

    Raises BadInput where PPO would be left without one.
    """
    if wanted and wanted >= prompts:
        raise BadInput(
            f"ppo.evaluation.prompts is {wanted}, and there are {prompts} training prompts;"
            " expected fewer, because PPO leaves them out. Lower it."
        )
    return set(order(prompts, seed=seed, epoch=0)[:wanted])


def roll_out(
    sampler: Sampler,
    prompts: dict[int, list[Prompt]],
    *,
    seed: int,
    eos_id: int,
    draw_number: int = 1,
) -> dict[int, Rollout]:
    """Generate one response per prompt, for one step or for several at once.

    prompts, and the rollouts returned: by step, the next step first.
    draw_number: the step's round of dynamic sampling, from 1.
    The same steps and weights give the same responses, whatever the number of ranks.
    """
    started = time.monotonic()
    asked, seeds = requests_of(prompts, seed=seed, draw_number=draw_number)
    samples = draw(sampler, asked, seeds=seeds, eos_id=eos_id)
    return rollouts_of(prompts, samples, seconds=time.monotonic() - started)


def requests_of(
    prompts: dict[int, list[Prompt]], *, seed: int, draw_number: int = 1
) -> tuple[list[list[int]], list[int]]:
    """Return the token ids of each step's prompts, one step after the other, and their seeds."""
    asked = [prompt.ids for own in prompts.values() for prompt in own]
    seeds = [
        one
        for step, own in prompts.items()
        for one in rollout_seeds(seed, step, len(own), draw=draw_number)
    ]
    return asked, seeds


def rollouts_of(
    prompts: dict[int, list[Prompt]], samples: list[Sample], *, seconds: float
) -> dict[int, Rollout]:
    """Return each step's rollout of the responses to all prompts.

    seconds: in which all of them were generated.
    """
    first, rest = min(prompts), iter(samples)
    found = {step: list(islice(rest, len(own))) for step, own in prompts.items()}
    return {
        step: Rollout(
            sequences=[
                Sequence(prompt.ids, sample.tokens)
                for prompt, sample in zip(prompts[step], own, strict=True)
            ],
            sampler_logprobs=[sample.logprobs for sample in own],
            ended=[sample.ended for sample in own],
            seconds=seconds / len(prompts),
            records=tuple(prompt.record for prompt in prompts[step]),
            age=step - first,
        )
        for step, own in found.items()
    }
