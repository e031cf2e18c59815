"""Rollouts: several steps at once, the order of the prompts, and responses in a checkpoint."""

import dataclasses
import random
import time

import pytest
from safetensors.torch import load, save

from rlhf_core.errors import BadInput
from rlhf_core.ppo.prompts import Prompt
from rlhf_core.ppo.rollout import Generated, indices_from, left_out, roll_out
from rlhf_core.sampling.base import Sample


class Dice:
    """A sampler that draws by seed alone."""

    ranks_each = 1
    calls = 0

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        self.calls += 1
        drawn = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            rng = random.Random(seed + sum(prompt))
            tokens = rng.choices(range(6, 60), k=rng.randint(1, 6))
            drawn.append(Sample(tokens, [rng.uniform(-3, 0) for _ in tokens], rng.random() < 0.5))
        return drawn


def test_several_steps_generated_at_once_are_those_generated_one_by_one_but_older():
    prompts = {step: [Prompt([step, i], {"i": i}) for i in range(3)] for step in (4, 5, 6)}
    dice = Dice()
    together = roll_out(dice, prompts, seed=7, eos_id=1)
    assert dice.calls == 1 and [together[step].age for step in (4, 5, 6)] == [0, 1, 2]
    for step, asked in prompts.items():
        alone = roll_out(Dice(), {step: asked}, seed=7, eos_id=1)[step]
        assert dataclasses.replace(together[step], age=0, seconds=0.0) == dataclasses.replace(
            alone, seconds=0.0
        )
        assert [sequence.prompt for sequence in alone.sequences] == [one.ids for one in asked]
        assert alone.records == tuple(one.record for one in asked)


def test_every_prompt_comes_once_an_epoch():
    epoch = [i for cursor in (0, 3, 6) for i in indices_from(9, cursor, 3, seed=5)]
    assert sorted(epoch) == list(range(9)) and epoch != list(range(9))
    assert indices_from(9, 9, 3, seed=5) != indices_from(9, 0, 3, seed=5)


def test_the_order_is_the_same_however_it_is_cut():
    assert indices_from(9, 7, 5, seed=5) == [
        *indices_from(9, 7, 1, seed=5),
        *indices_from(9, 8, 4, seed=5),
    ]


def test_a_step_picks_its_prompts_out_of_a_million_in_milliseconds():
    """Bug: the whole order was made for each prompt of a step, 24 s for 256 of a million."""
    indices_from(10**6, 0, 1, seed=5)  # the order of an epoch is made once
    started = time.perf_counter()
    for step in range(20):
        indices_from(10**6, 256 * step, 256, seed=5)
    assert (time.perf_counter() - started) / 20 < 0.05


def test_later_rounds_of_a_step_draw_other_responses_to_the_same_prompt():
    asked = {4: [Prompt([4, 1], {})]}
    first, again, second = (
        roll_out(Dice(), asked, seed=7, eos_id=1, draw_number=number)[4].sequences
        for number in (1, 1, 2)
    )
    assert first == again != second


def test_the_prompts_that_ppo_leaves_out_are_drawn_by_seed_and_never_all():
    assert left_out(5, 0, seed=1) == set()
    chosen = left_out(100, 30, seed=1)
    assert len(chosen) == 30 and chosen <= set(range(100)) and chosen != left_out(100, 30, seed=2)
    with pytest.raises(BadInput, match=r"evaluation.prompts is 5, and there are 5"):
        left_out(5, 5, seed=1)


def test_responses_that_wait_keep_every_bit_in_a_checkpoint():
    samples = Dice().generate([[1], [2, 3], [4]], seeds=[5, 6, 7], eos_id=1)
    samples.append(Sample([9], [-1 / 3], True))
    found = Generated.of(load(save(Generated(samples, 0.1 + 0.2).tensors())))
    assert found == Generated(samples, 0.1 + 0.2)
