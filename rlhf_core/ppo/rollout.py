"""Rollouts: prompts in, sampled responses out."""

import time
from dataclasses import dataclass
from itertools import islice

from rlhf_core.batching.batch import Sequence, order, order_part
from rlhf_core.errors import BadInput
from rlhf_core.ppo.prompts import Prompt
from rlhf_core.sampling.base import Sampler
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
    age: int = 0  # steps that the actor has learned since the weights that generated it
    cursor: int = 0  # place in the seeded order of prompts at which the next step goes on
    selection: Selection | None = None  # None: without dynamic sampling

    @property
    def response_tokens(self) -> int:
        """Tokens of all responses."""
        return sum(len(s.response) for s in self.sequences)


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
    started, first = time.monotonic(), min(prompts)
    asked = [prompt.ids for own in prompts.values() for prompt in own]
    seeds = [
        one
        for step, own in prompts.items()
        for one in rollout_seeds(seed, step, len(own), draw=draw_number)
    ]
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
