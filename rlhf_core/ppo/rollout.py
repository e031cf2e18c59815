"""Rollouts: prompts in, sampled responses out."""

import time
from dataclasses import dataclass
from itertools import islice

from rlhf_core.batching.batch import Sequence, order
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.draw import draw
from rlhf_core.seeds import rollout_seeds


@dataclass(frozen=True)
class Prompt:
    """Token ids of a prompt, and the record that it was rendered from."""

    ids: list[int]
    record: dict


@dataclass(frozen=True)
class Rollout:
    """One step's responses, one entry per prompt."""

    sequences: list[Sequence]
    sampler_logprobs: list[list[float]]  # nats, one per response token
    ended: list[bool]  # by end-of-text
    seconds: float
    records: tuple[dict, ...] = ()  # the prompts' records, for reward functions
    age: int = 0  # steps that the actor has learned since the weights that generated it

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(s.response) for s in self.sequences)


def indices_of_step(prompts: int, step: int, count: int, *, seed: int) -> list[int]:
    """Return the indices of the `count` prompts, out of `prompts`, that the 1-based `step` takes.

    Steps go through epochs of a seeded order; the result is a function of step and seed alone.
    """
    picked = []
    for position in range((step - 1) * count, step * count):
        epoch, offset = divmod(position, prompts)
        picked.append(order(prompts, seed=seed, epoch=epoch)[offset])
    return picked


def roll_out(
    sampler: Sampler, prompts: dict[int, list[Prompt]], *, seed: int, eos_id: int
) -> dict[int, Rollout]:
    """Generate one response per prompt, for one step or for several at once.

    prompts, and the rollouts returned: by step, the next step first.
    The same steps and weights give the same responses, whatever the number of ranks.
    """
    started, first = time.monotonic(), min(prompts)
    asked = [prompt.ids for own in prompts.values() for prompt in own]
    seeds = [one for step, own in prompts.items() for one in rollout_seeds(seed, step, len(own))]
    samples = iter(draw(sampler, asked, seeds=seeds, eos_id=eos_id))
    found = {step: list(islice(samples, len(own))) for step, own in prompts.items()}
    seconds = (time.monotonic() - started) / len(prompts)
    return {
        step: Rollout(
            sequences=[
                Sequence(prompt.ids, sample.tokens)
                for prompt, sample in zip(prompts[step], own, strict=True)
            ],
            sampler_logprobs=[sample.logprobs for sample in own],
            ended=[sample.ended for sample in own],
            seconds=seconds,
            records=tuple(prompt.record for prompt in prompts[step]),
            age=step - first,
        )
        for step, own in found.items()
    }
