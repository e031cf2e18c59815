"""Prompts in, responses out: what the sampler alone knows."""

import time
from dataclasses import dataclass

from rlhf_core.batch import Sequence, order
from rlhf_core.sampler import Sampler


@dataclass(frozen=True)
class Rollout:
    """One step's responses, one entry a prompt."""

    sequences: list[Sequence]
    sampler_logprobs: list[list[float]]  # nats, one a response token
    ended: list[bool]  # by end-of-text
    seconds: float

    @property
    def response_tokens(self) -> int:
        return sum(len(s.response) for s in self.sequences)


def prompts_of_step(prompts: list[list[int]], step: int, count: int, *, seed: int) -> list[list[int]]:
    """The `count` prompts of the 1-based `step`: epochs over a seeded order, a function of step and seed alone."""
    picked = []
    for position in range((step - 1) * count, step * count):
        epoch, offset = divmod(position, len(prompts))
        picked.append(prompts[order(len(prompts), seed=seed, epoch=epoch)[offset]])
    return picked


def roll_out(sampler: Sampler, prompts: list[list[int]], *, step: int, seed: int, eos_id: int) -> Rollout:
    """Generate one response a prompt; the same step and weights give the same responses."""
    started = time.monotonic()
    seeds = [(seed * 1_000_003 + step) * 65_536 + i for i in range(len(prompts))]
    samples = sampler.generate(prompts, seeds=seeds, eos_id=eos_id)
    return Rollout(
        sequences=[Sequence(p, s.tokens) for p, s in zip(prompts, samples, strict=True)],
        sampler_logprobs=[s.logprobs for s in samples],
        ended=[s.ended for s in samples],
        seconds=time.monotonic() - started,
    )
