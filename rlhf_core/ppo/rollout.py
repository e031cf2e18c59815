"""Prompts in, responses out: what the sampler alone knows."""

import time
from dataclasses import dataclass, field
from itertools import islice

from rlhf_core.batching.batch import Sequence, order
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.draw import draw
from rlhf_core.seeds import rollout_seeds


@dataclass(frozen=True)
class Rollout:
    """One step's responses, one entry a prompt."""

    sequences: list[Sequence]
    sampler_logprobs: list[list[float]]  # nats, one a response token
    ended: list[bool]  # by end-of-text
    seconds: float
    records: list[dict] = field(default_factory=list)  # the prompts' records, for reward functions
    age: int = 0  # steps that the actor has learned since the weights that generated it

    @property
    def response_tokens(self) -> int:
        return sum(len(s.response) for s in self.sequences)


def indices_of_step(prompts: int, step: int, count: int, *, seed: int) -> list[int]:
    """Which `count` of so many prompts the 1-based `step` takes: epochs over a seeded order, by
    step and seed alone.
    """
    picked = []
    for position in range((step - 1) * count, step * count):
        epoch, offset = divmod(position, prompts)
        picked.append(order(prompts, seed=seed, epoch=epoch)[offset])
    return picked


def roll_out(
    sampler: Sampler, prompts: dict[int, list[list[int]]], *, seed: int, eos_id: int
) -> dict[int, Rollout]:
    """Generate one response a prompt, for one step or several at once; prompts and rollouts by
    step, the first being the next.

    The same steps and weights give the same responses, on however many ranks.
    """
    started, first = time.monotonic(), min(prompts)
    seeds = [
        one for step, asked in prompts.items() for one in rollout_seeds(seed, step, len(asked))
    ]
    samples = iter(
        draw(
            sampler,
            [prompt for asked in prompts.values() for prompt in asked],
            seeds=seeds,
            eos_id=eos_id,
        )
    )
    found = {step: list(islice(samples, len(asked))) for step, asked in prompts.items()}
    seconds = (time.monotonic() - started) / len(prompts)
    return {
        step: Rollout(
            sequences=[Sequence(p, s.tokens) for p, s in zip(prompts[step], own, strict=True)],
            sampler_logprobs=[s.logprobs for s in own],
            ended=[s.ended for s in own],
            seconds=seconds,
            age=step - first,
        )
        for step, own in found.items()
    }
