"""The paired score: both versions' replies to the same prompts, scored by one reward model.

Some of the champion's requests are shadowed: the candidate answers them too, and no client sees it.
The difference of two scores of one prompt has no part of how hard the prompt is.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rlhf_core.live.verdict import LiveMeasure
from rlhf_core.statistics.clusters import by_cluster, clusters_of, linearised

NAME = "paired_score"
LIMIT = 0.1  # standard deviations of the champion's scores
_FAR = 1e9  # a bound that is not known; JSON has no infinity
FEWEST = 20  # different prompts below which nothing is said


@dataclass(frozen=True)
class PairedScores:
    """Scores of both versions' replies to the same prompts, in the same order.

    prompts: a text per pair by which equal prompts count as one. note: what is missing, and why.
    """

    champion: Sequence[float] = ()
    candidate: Sequence[float] = ()
    prompts: Sequence[str] = ()
    note: str = ""


def is_shadowed(identity: str, share: float) -> bool:
    """Return True for a share of the replies: by their ids, so that each stays as it is."""
    value = int.from_bytes(hashlib.sha256(f"shadow {identity}".encode()).digest()[:8], "big")
    return value < share * 2**64


def paired_measure(found: PairedScores, level: float, shared: float) -> LiveMeasure:
    """Return the candidate's loss of score: mean of (champion - candidate) / SD of the champion's.

    level: of the upper bound; shared: of the lower one. Bounds: Student's t over whole prompts. It
    is 'unknown' below FEWEST prompts, and where all scores of the champion are equal.
    """
    ours, theirs = (np.array(side, dtype=float) for side in (found.champion, found.candidate))
    prompts = len(set(found.prompts))
    spread = float(ours.std(ddof=1)) if len(ours) > 1 else 0.0
    if prompts < FEWEST or spread == 0:
        few = f"{prompts} prompts have scores of both versions, expected {FEWEST}"
        equal = "the champion's scores are all equal"
        reason = few if prompts < FEWEST else equal
        return _measure(len(ours), note="; ".join(filter(None, [found.note, reason])))
    losses_N = (ours - theirs) / spread
    grouped = by_cluster([(1, losses_N, np.ones(len(losses_N)))], clusters_of(found.prompts))
    lower, upper = (linearised(grouped, 1 - 2 * shared)[0], linearised(grouped, 1 - 2 * level)[1])
    decided = {"candidate": float(losses_N.mean()), "lower": lower, "upper": upper}
    finding = "worse" if lower > LIMIT else "well" if upper < LIMIT else "open"
    return _measure(len(ours), **decided, finding=finding, note=found.note)


def _measure(count: int, **values: object) -> LiveMeasure:
    """Return the measure; the champion's scores are the zero of its scale."""
    unknown = {"candidate": 0.0, "lower": -_FAR, "upper": _FAR, "finding": "unknown"}
    fixed = {"name": NAME, "champion": 0.0, "champion_n": count, "candidate_n": count}
    return LiveMeasure.model_validate(fixed | {"limit": LIMIT} | unknown | values)
