"""Simulated annotators, who mostly prefer the more useful reply, with biases and errors."""

import math
from random import Random
from typing import NamedTuple

from rlhf_core.quickstart.language import COURTESIES
from rlhf_core.quickstart.utility import score


class Annotator(NamedTuple):
    """One annotator: P(prefers a) = sigmoid((value(a) - value(b)) / temperature).

    The vote is flipped with probability `error_rate`.
    """

    temperature: float  # in units of utility: the size of a difference that is clear to them
    per_word: float  # utility per word; above 0 they prefer the longer reply
    per_courtesy: float  # utility per kind word, added to its true utility
    error_rate: float  # share of votes that are flipped


ANNOTATORS = (
    Annotator(temperature=0.8, per_word=0.00, per_courtesy=0.0, error_rate=0.05),
    Annotator(temperature=1.2, per_word=0.03, per_courtesy=0.0, error_rate=0.08),
    Annotator(temperature=1.0, per_word=-0.02, per_courtesy=0.3, error_rate=0.05),
    Annotator(temperature=1.4, per_word=0.02, per_courtesy=-0.2, error_rate=0.10),
    Annotator(temperature=1.0, per_word=0.00, per_courtesy=0.2, error_rate=0.07),
)
VOTES = 3  # annotators per pair; odd, so that there is a majority
EXPECTED = 0.5  # utility at which a reply gets thumbs up as often as thumbs down


def preference(
    annotator: Annotator, replies: tuple[str, str], utilities: tuple[float, float]
) -> float:
    """Return the probability that `annotator` votes for the first of two replies.

    Source: Bradley and Terry 1952, with errors added.
    """
    first, second = (_value(annotator, *pair) for pair in zip(replies, utilities, strict=True))
    clear = 1 / (1 + math.exp(-(first - second) / annotator.temperature))
    return clear * (1 - annotator.error_rate) + (1 - clear) * annotator.error_rate


def votes_for_first(rng: Random, replies: tuple[str, str], utilities: tuple[float, float]) -> int:
    """Return the votes for the first reply, of VOTES annotators drawn without replacement."""
    return sum(
        rng.random() < preference(who, replies, utilities) for who in rng.sample(ANNOTATORS, VOTES)
    )


def thumb(rng: Random, reply: str, utility: float) -> bool:
    """Return one annotator's verdict on a single reply, True for thumbs up.

    P(up) = sigmoid((value - EXPECTED) / temperature), with the annotator's errors.
    """
    who = rng.choice(ANNOTATORS)
    clear = 1 / (1 + math.exp(-(_value(who, reply, utility) - EXPECTED) / who.temperature))
    return rng.random() < clear * (1 - who.error_rate) + (1 - clear) * who.error_rate


def votes(
    prompts: list[str], replies_a: list[str], replies_b: list[str], seed: int
) -> list[dict[str, str]]:
    """Return the votes of VOTES annotators on each pair: 'a' or 'b' by the annotator's name.

    The same pair and seed give the same votes in either order of the replies. Raises BadInput for a
    prompt of another language.
    """
    return [_votes(*pair, seed) for pair in zip(prompts, replies_a, replies_b, strict=True)]


def _votes(prompt: str, reply_a: str, reply_b: str, seed: int) -> dict[str, str]:
    first, second = sorted((reply_a, reply_b))
    first_utility, second_utility = score([prompt] * 2, [first, second])
    rng = Random(f"{seed}\0{prompt}\0{first}\0{second}")
    found = {}
    for place in rng.sample(range(len(ANNOTATORS)), VOTES):
        who, utilities = ANNOTATORS[place], (first_utility, second_utility)
        prefers_first = rng.random() < preference(who, (first, second), utilities)
        found[f"annotator {place + 1}"] = "a" if prefers_first == (first == reply_a) else "b"
    return found


def label(prompts: list[str], replies_a: list[str], replies_b: list[str]) -> list[float]:
    """Return the majority label of VOTES annotators for each pair: 1 (a is better) or 0.

    This is a judge function. The same pair gets the same annotators and votes in either order.
    Raises BadInput for a prompt of another language.
    """
    return [_majority(*pair) for pair in zip(prompts, replies_a, replies_b, strict=True)]


def _majority(prompt: str, reply_a: str, reply_b: str) -> float:
    first, second = sorted((reply_a, reply_b))
    first_utility, second_utility = score([prompt] * 2, [first, second])
    votes = votes_for_first(
        Random(f"{prompt}\0{first}\0{second}"), (first, second), (first_utility, second_utility)
    )
    return float((votes > VOTES / 2) == (first == reply_a))


def _value(annotator: Annotator, reply: str, utility: float) -> float:
    words = reply.split()
    kind = sum(word in COURTESIES for word in words)
    return utility + annotator.per_word * len(words) + annotator.per_courtesy * kind
