"""The plan of contests: how many held-out prompts an effect needs, and what the given ones show."""

from dataclasses import dataclass

from rlhf_core.config import Contest
from rlhf_core.contest.power import detectable_share, power, prompts_needed, wins_needed
from rlhf_core.contest.spending import level

LOOKS = (1, 2, 5, 9, 12, 26, 52)  # that are shown beside the one asked for


@dataclass(frozen=True)
class ContestWish:
    """The question that a plan answers: an effect, a power, and the prompts at hand.

    effect: true share of decided prompts won, above one half. power: probability that a candidate
    with that effect is promoted. prompts: decided held-out prompts. look: the next contest on them.
    """

    effect: float
    power: float
    prompts: int
    look: int = 1


@dataclass(frozen=True)
class PlannedContest:
    """One contest by its place on the same prompts. None: no number of prompts is enough."""

    look: int
    level: float
    wins_needed: int | None  # of the given prompts
    power: float  # of the given prompts for the wanted effect
    detectable_effect: float | None  # by the given prompts with the wanted power
    prompts_needed: int | None  # for the wanted effect with the wanted power


def plan_contests(contest: Contest, wish: ContestWish) -> list[PlannedContest]:
    """Return the contest asked for, and some later ones on the same prompts."""
    looks = sorted({wish.look, *(look for look in LOOKS if look > wish.look)})
    return [_planned(contest, wish, look) for look in looks]


def _planned(contest: Contest, wish: ContestWish, look: int) -> PlannedContest:
    at, threshold, share = level(look, contest.confidence), contest.threshold, 0.5 + wish.effect
    found = detectable_share(wish.prompts, wish.power, at, threshold)
    enough = prompts_needed(share, wish.power, at, threshold)
    return PlannedContest(
        look=look,
        level=at,
        wins_needed=wins_needed(wish.prompts, at, threshold),
        power=power(wish.prompts, share, at, threshold),
        detectable_effect=None if found is None else found - 0.5,
        prompts_needed=None if enough is None else max(enough, contest.min_n),
    )
