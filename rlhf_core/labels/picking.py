"""Pick the pairs to spend labels on: at random, or where a label is likely to say most.

Settles 2009, "Active Learning Literature Survey", sections 3.1 (uncertainty) and 3.2 (query by
committee); Sener and Savarese 2018, arXiv:1708.00489 (k-centre greedy) for `diverse`.
"""

from collections.abc import Callable, Sequence
from random import Random
from typing import Literal

from rlhf_core.data.splitting.near_duplicates import jaccard, linked_pairs, shingles
from rlhf_core.errors import BadInput
from rlhf_core.labels.votes import LabelPair

Pick = Literal["random", "uncertain", "disagreement", "diverse"]
SIMILARITY = 0.8  # of two pairs that count as near-duplicates: Jaccard, of runs of three words
MOST_DIVERSE = 5000  # candidates among which `diverse` looks: its time is candidates * budget

Pairs = list[LabelPair]


def pick(candidates: Sequence[LabelPair], count: int, how: Pick, seed: int) -> Pairs:
    """Return at most `count` candidates, no two of them near-duplicates, the first pick first.

    random: in random order. uncertain: the smallest margin of the reward model's scores first.
    disagreement: the most disagreement first. diverse: each one as far as can be from those before
    it. A pair without the number goes last. Raises BadInput where no pair has it.
    """
    mixed = sorted(candidates, key=lambda pair: pair.pair_id)
    Random(f"pick {seed}").shuffle(mixed)
    ordered = _ORDERS[how](mixed)
    if how == "diverse":
        return _farthest_first(_without_near_duplicates(ordered[:MOST_DIVERSE]), count)
    # what is near to one before it is skipped: look at more than are wanted, and go on if too few
    looked = 2 * count
    while True:
        found = _without_near_duplicates(ordered[:looked])
        if len(found) >= count or looked >= len(ordered):
            return found[:count]
        looked *= 2


def _random(pairs: Pairs) -> Pairs:
    return pairs


def _uncertain(pairs: Pairs) -> Pairs:
    _require(pairs, "uncertain", "score by the run's reward model", lambda pair: pair.margin)
    return sorted(pairs, key=lambda pair: float("inf") if pair.margin is None else abs(pair.margin))


def _disagreement(pairs: Pairs) -> Pairs:
    _require(
        pairs,
        "disagreement",
        "second rater (an ensemble of reward models, a judge, or votes)",
        lambda pair: pair.disagreement,
    )

    def apart(pair: LabelPair) -> float:
        return -1.0 if pair.disagreement is None else pair.disagreement

    return sorted(pairs, key=apart, reverse=True)


_ORDERS: dict[Pick, Callable[[Pairs], Pairs]] = {
    "random": _random,
    "uncertain": _uncertain,
    "disagreement": _disagreement,
    "diverse": _random,
}


def _require(
    pairs: Pairs, how: str, what: str, number: Callable[[LabelPair], float | None]
) -> None:
    if pairs and all(number(pair) is None for pair in pairs):
        raise BadInput(
            f"--pick {how} has nothing to go by: none of {len(pairs)} pairs has a {what}. Use"
            " --pick random or diverse."
        )


def _without_near_duplicates(pairs: Pairs) -> Pairs:
    """Return the first pair of each cluster of near-duplicates, in their order."""
    top = list(range(len(pairs)))
    for one, other in linked_pairs([pair.text for pair in pairs], SIMILARITY):
        first, second = _root(top, one), _root(top, other)
        top[max(first, second)] = min(first, second)
    return [pair for place, pair in enumerate(pairs) if _root(top, place) == place]


def _root(top: list[int], place: int) -> int:
    while top[place] != place:
        place = top[place]
    return place


def _farthest_first(pairs: Pairs, count: int) -> Pairs:
    """Return pairs by k-centre greedy: the next one is the least like its nearest before it."""
    if not pairs:
        return []
    sets = [shingles(pair.text) for pair in pairs]
    found, nearest = [0], [jaccard(sets[0], one) for one in sets]
    while len(found) < min(count, len(pairs)):
        left = set(range(len(pairs))) - set(found)
        chosen = min(left, key=lambda place: (nearest[place], place))
        found.append(chosen)
        nearest = [max(n, jaccard(sets[chosen], one)) for n, one in zip(nearest, sets, strict=True)]
    return [pairs[place] for place in found]


def budgets(available: dict[str, int], total: int) -> dict[str, int]:
    """Return how many pairs each source gives: equal shares, and what one lacks from the others."""
    found, left = dict.fromkeys(available, 0), total
    while left and (open_ := [name for name in available if found[name] < available[name]]):
        each = max(1, left // len(open_))
        for name in open_:
            share = min(each, available[name] - found[name], left)
            found[name] += share
            left -= share
    return found
