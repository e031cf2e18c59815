"""Who labels which pair: an equal share for everybody, and an overlap that shows agreement."""

from collections.abc import Iterable, Mapping, Sequence
from random import Random

from rlhf_core.errors import BadInput
from rlhf_core.labels.votes import LabelPair

Assigned = dict[str, list[str]]  # annotator -> ids of pairs, in the order in which they are shown
OVERLAP_VOTES = 3  # annotators of a pair in the overlap, where there are as many


def assign(
    pairs: Sequence[LabelPair], annotators: Sequence[str], *, overlap: float, seed: int
) -> Assigned:
    """Return each annotator's pairs.

    overlap: share of the pairs that OVERLAP_VOTES annotators label, or all where they are fewer.
    Every other pair has one annotator, and a gold pair has all. Loads differ by at most one vote,
    gold apart. The order is each annotator's own, so that nobody tires on the same pairs.
    """
    require_annotators(annotators)
    rng = Random(f"assign {seed}")
    load = dict.fromkeys(annotators, 0)
    found: Assigned = {annotator: [] for annotator in annotators}
    asked = [pair.pair_id for pair in pairs if pair.gold is None]
    rng.shuffle(asked)
    shared = round(overlap * len(asked))
    for place, pair_id in enumerate(asked):
        votes = min(OVERLAP_VOTES, len(annotators)) if place < shared else 1
        for annotator in _least_busy(load, annotators, votes, rng):
            load[annotator] += 1
            found[annotator].append(pair_id)
    for annotator in annotators:
        found[annotator] += [pair.pair_id for pair in pairs if pair.gold is not None]
        Random(f"order {seed} {annotator}").shuffle(found[annotator])
    return found


def require_annotators(annotators: Sequence[str]) -> None:
    """Raise BadInput for no annotators, blank names, and names that are the same to MLflow."""
    known = [name.strip().lower() for name in annotators]
    if not known or not all(known):
        raise BadInput(
            f"annotators are {', '.join(annotators) or 'none'!s}; expected the names of those who"
            " label, as --annotators ann,bob."
        )
    if twice := sorted({name for name in known if known.count(name) > 1}):
        raise BadInput(
            f"annotators name {', '.join(twice)} more than once; expected each person once. MLflow"
            " takes no notice of capitals in names."
        )


def further(
    pair_ids: Iterable[str], have: Mapping[str, Sequence[str]], annotators: Sequence[str], seed: int
) -> Assigned:
    """Return one more annotator for each pair: the least busy who has not been asked about it.

    have: what everybody was asked before. A pair that all were asked about gets nobody.
    """
    rng = Random(f"further {seed}")
    load = dict.fromkeys(annotators, 0)
    found: Assigned = {annotator: [] for annotator in annotators}
    for pair_id in pair_ids:
        free = [name for name in annotators if pair_id not in have.get(name, ())]
        for annotator in _least_busy(load, free, 1, rng):
            load[annotator] += 1
            found[annotator].append(pair_id)
    return {name: pairs for name, pairs in found.items() if pairs}


def _least_busy(
    load: Mapping[str, int], annotators: Sequence[str], count: int, rng: Random
) -> list[str]:
    """Return the annotators with the fewest votes to give, in random order among equals."""
    mixed = rng.sample(list(annotators), len(annotators))
    return sorted(mixed, key=lambda name: load[name])[:count]
