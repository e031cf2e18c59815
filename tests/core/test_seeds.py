"""Derived seeds keep their values: another value would change every trained model."""

from itertools import chain

from rlhf_core.seeds import (
    epoch_seed,
    member_seed,
    minibatch_seed,
    onpolicy_seeds,
    reply_seeds,
    rollout_seeds,
)


def test_the_values_are_those_of_every_model_trained_so_far():
    assert epoch_seed(7, 3) == 7_000_024
    assert minibatch_seed(7, 3) == 57_340
    assert list(rollout_seeds(7, 3, 2)) == [458_753_572_864, 458_753_572_865]
    assert list(onpolicy_seeds(7, 3, 2)) == [458_753_605_632, 458_753_605_633]
    assert list(reply_seeds(7, 3, 2)) == [7_000_027, 7_000_028]
    assert [member_seed(7, number) for number in (1, 2, 3)] == [7, 268_435_463, 536_870_919]


def test_sampling_seeds_of_steps_and_of_checks_do_not_meet():
    ranges = [of(1, step, 32_768) for step in (1, 2, 3) for of in (rollout_seeds, onpolicy_seeds)]
    assert len(set(chain(*ranges))) == 6 * 32_768
