"""Derived seeds keep their values: another value would change every trained model."""

from itertools import chain

import pytest
import torch

from rlhf_core.seeds import (
    epoch_seed,
    member_seed,
    minibatch_seed,
    noise_seeds,
    onpolicy_seeds,
    reply_seeds,
    rollout_seeds,
    round_seed,
)


def test_the_values_are_those_of_every_model_trained_so_far():
    assert epoch_seed(7, 3) == 7_000_024
    assert minibatch_seed(7, 3) == 57_340
    assert list(noise_seeds(7, 3, 2)) == [458_753_572_864, 458_753_572_865]
    assert list(rollout_seeds(7, 3, 2)) == [458_753_572_864, 458_753_572_865]
    assert list(onpolicy_seeds(7, 3, 2)) == [458_753_605_632, 458_753_605_633]
    assert list(reply_seeds(7, 3, 2)) == [7_000_027, 7_000_028]
    assert [member_seed(7, number) for number in (1, 2, 3)] == [7, 268_435_463, 536_870_919]


@pytest.mark.parametrize("seed", [1, 281_474_132, 281_474_133, 2**31 - 1])
def test_sampling_seeds_of_steps_and_of_checks_do_not_meet(seed):
    ranges = [
        of(seed, step, 32_768) for step in (1, 2, 3) for of in (rollout_seeds, onpolicy_seeds)
    ]
    assert len(set(chain(*ranges))) == 6 * 32_768


def test_rounds_of_dynamic_sampling_have_seeds_of_their_own_below_2_64():
    ranges = [rollout_seeds(7, step, 4096, draw=draw) for step in (1, 2) for draw in (1, 2, 3, 10)]
    assert len(set(chain(*ranges))) == 8 * 4096 and max(map(max, ranges)) < 2**64
    assert rollout_seeds(7, 3, 2, draw=1) == rollout_seeds(7, 3, 2)


@pytest.mark.parametrize("seed", [0, 281_474_132, 281_474_133, 2**31 - 1])
def test_every_seed_of_a_recipe_gives_seeds_that_torch_takes(seed):
    generator = torch.Generator()
    found = [
        *(epoch_seed(seed, 0), minibatch_seed(seed, 100_000), member_seed(seed, 8)),
        *(of(seed, step, 4)[-1] for step in (1, 100_000) for of in (rollout_seeds, onpolicy_seeds)),
        reply_seeds(seed, 63, 100_000)[-1],
        noise_seeds(seed, 100_000, 4)[-1],
    ]
    for one in found:
        assert generator.manual_seed(one).initial_seed() == one


def test_seeds_up_to_the_largest_that_worked_before_keep_their_values():
    assert rollout_seeds(281_474_132, 0, 1)[0] == 281_474_132 * 1_000_003 * 65_536


def test_rounds_of_labels_have_seeds_of_their_own_below_2_31():
    seeds = {round_seed(seed, number) for seed in range(50) for number in range(50)}
    assert len(seeds) == 2500 and max(seeds) < 2**31
