"""Decide about a candidate by its live replies: forward, back, or go on.

Look k is at the first FIRST * 2^(k-1) replies of the candidate, and at the champion's of that time.
It has the level of contest k (rlhf_core/contest/spending.py), and all levels together are below
1 - CONFIDENCE. What a look sees depends on the replies alone, never on when or how often somebody
asks: asking every hour is no further look.

So a candidate that is within every limit is sent back with a probability of at most 5%, and one
that is beyond a limit goes forward with at most 5%, over all looks together.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from rlhf_core.contest.spending import level
from rlhf_core.digest import digest_json
from rlhf_core.live.measures import JudgedReplies, JudgedReply, compare_replies
from rlhf_core.live.paired import PairedScores
from rlhf_core.live.verdict import LiveDecision, LiveMeasure, LiveVerdict

CONFIDENCE = 0.95
FIRST = 50  # replies of the candidate at the first look
LOOKS = 7  # a person decides after the last one
MOST = FIRST * 2 ** (LOOKS - 1)  # replies of the candidate that ever count
Scored = Callable[[JudgedReplies], PairedScores]
CHAMPION_RATIO = 4  # champion's replies for each of the candidate's; more hardly narrow a bound


def replies_at(look: int) -> int:
    """Return the number of the candidate's replies at a look, from 1."""
    return int(FIRST * 2 ** (look - 1))


def latest_look(count: int) -> int:
    """Return the last look for which there are replies enough, 0 for none."""
    return sum(replies_at(look) <= count for look in range(1, LOOKS + 1))


def decide_live(
    versions: tuple[str, str],
    champion: JudgedReplies,
    candidate: JudgedReplies,
    scored: Scored | None = None,
) -> LiveVerdict:
    """Return the verdict on a candidate. versions: those of champion and candidate.

    scored: gives the paired scores to the champion's replies that count, None: without them.

    Replies from before both versions answered do not count. Of very many of the champion's, evenly
    spaced ones do.
    """
    ours, theirs = _together(champion, candidate)
    look = latest_look(len(theirs))
    theirs = theirs[: replies_at(look)] if look else theirs
    if look:
        ours = _thinned([each for each in ours if each.time_ms <= theirs[-1].time_ms], len(theirs))
    verdict = LiveVerdict(
        decision="continue",
        reason=(
            f"too few replies to look at: version {versions[1]} has {len(theirs)}, the champion,"
            f" version {versions[0]}, has {len(ours)} of the same time; expected {FIRST} of each"
        ),
        champion=versions[0],
        candidate=versions[1],
        champion_n=len(ours),
        candidate_n=len(theirs),
    )
    if not look or len(ours) < FIRST:
        return verdict
    at = level(look, CONFIDENCE)
    measures = compare_replies(ours, theirs, at, scored(ours) if scored else None)
    decision, reason = _decided(measures, versions, look)
    changes = {
        "decision": decision,
        "reason": reason,
        "look": look,
        "level": at,
        "until": datetime.fromtimestamp(theirs[-1].time_ms / 1000, UTC),
        "replies": digest_json([each.identity for each in [*ours, *theirs]]),
        "measures": tuple(measures),
    }
    return verdict.model_copy(update=changes)


def _together(
    champion: JudgedReplies, candidate: JudgedReplies
) -> tuple[list[JudgedReply], list[JudgedReply]]:
    """Return both versions' replies in order of time, from where on both answered."""
    if not champion or not candidate:
        return list(champion), list(candidate)
    sides = [
        sorted(side, key=lambda each: (each.time_ms, each.identity))
        for side in (champion, candidate)
    ]
    since = max(side[0].time_ms for side in sides)
    ours, theirs = ([each for each in side if each.time_ms >= since] for side in sides)
    return ours, theirs


def _thinned(replies: list[JudgedReply], candidates: int) -> list[JudgedReply]:
    """Return evenly spaced replies, at most CHAMPION_RATIO for each of the candidate's."""
    step = -(-len(replies) // (CHAMPION_RATIO * candidates))
    return replies[:: max(1, step)]


def _decided(
    measures: Sequence[LiveMeasure], versions: tuple[str, str], look: int
) -> tuple[LiveDecision, str]:
    """Return decision and reason."""
    champion, candidate = versions
    where = f"look {look}, at {replies_at(look)} replies of version {candidate}"
    if worse := [each for each in measures if each.finding == "worse"]:
        found = "; ".join(map(_excess, worse))
        text = f"version {candidate} is worse than the champion, version {champion}: {found}"
        return "back", f"{text} ({where})"
    if left := [_left(each) for each in measures if each.finding in ("open", "unknown")]:
        ahead = f"the next look is at {replies_at(look + 1)}"
        if look == LOOKS:
            ahead = "this was the last look, and a person decides"
        return "continue", f"not decided by {', '.join(left)} ({where}; {ahead})"
    text = f"version {candidate} is not worse than the champion, version {champion}, by more"
    return "forward", f"{text} than any limit ({where})"


def _left(found: LiveMeasure) -> str:
    return f"{found.name} ({found.note})" if found.note else found.name


def _excess(found: LiveMeasure) -> str:
    return (
        f"{found.name} {found.candidate:.3g}, the champion's {found.champion:.3g}: higher by at"
        f" least {found.lower:.3g}, allowed {found.limit:.3g}"
    )
