"""Seeds that are derived from the recipe's one seed, all in one place.

Each is a function of its arguments alone, so that a resumed stage draws what the killed one would
have drawn. Changing a value here changes every trained model.
"""

import hashlib

GENERATOR = 2**64  # torch's generators and vLLM take seeds below
STEP = 65_536  # seeds of one PPO step: rollouts take them from 0 on,
ONPOLICY = 32_768  # on-policy checks of the reward model from here on


def epoch_seed(seed: int, epoch: int) -> int:
    """Return the seed of the data order in one epoch."""
    return seed * 1_000_003 + epoch


def noise_seeds(seed: int, step: int, count: int) -> range:
    """Return one seed of embedding noise per demonstration of one SFT step."""
    first = _first_of_step(seed, step)
    return range(first, first + count)


def minibatch_seed(seed: int, step: int) -> int:
    """Return the seed from which the minibatch orders of one PPO step are derived."""
    return seed * 8_191 + step


def rollout_seeds(seed: int, step: int, count: int, *, draw: int = 1) -> range:
    """Return one sampling seed per response of one PPO step.

    draw: the number of the step's round of dynamic sampling, from 1. Later rounds have seeds of
    their own, whatever the number of responses in the earlier ones.
    """
    first = _first_of_step(seed, step)
    if draw > 1:
        digest = hashlib.sha256(f"{seed} {step} {draw}".encode()).digest()
        first = int.from_bytes(digest[:6]) * STEP
    return range(first, first + count)


def onpolicy_seeds(seed: int, step: int, count: int) -> range:
    """Return one sampling seed per reply of an on-policy check after one PPO step."""
    first = _first_of_step(seed, step) + ONPOLICY
    return range(first, first + count)


def _first_of_step(seed: int, step: int) -> int:
    """Return the first of a step's seeds, the remainder by 2^64.

    It is a multiple of 2^16, so that the seeds of a step stay below 2^64, and those of two steps do
    not meet.
    """
    return (seed * 1_000_003 + step) * STEP % GENERATOR


def reply_seeds(seed: int, draw: int, count: int) -> range:
    """Return one sampling seed per held-out prompt.

    draw: the number of the reply to each prompt, from 0.
    """
    first = seed * 1_000_003 + draw * count
    return range(first, first + count)


def round_seed(seed: int, number: int) -> int:
    """Return the seed of the candidates, picks and votes of one round of `rlhf iterate`.

    It is below 2^31, as the recipe's own, and no sum, so that no two recipes' rounds share it.
    """
    digest = hashlib.sha256(f"{seed} round {number}".encode()).digest()
    return int.from_bytes(digest[:4]) >> 1


def member_seed(seed: int, number: int) -> int:
    """Return the seed of an ensemble member's head and data order.

    Member 1 has the recipe's own seed. torch's generator takes 32 bits: the recipe's seed is below
    2^31, which leaves room for the others.
    """
    return seed + (number - 1) * 2**28
