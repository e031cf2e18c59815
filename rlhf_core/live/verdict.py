"""The verdict of the live gate, as the ledger keeps it."""

from datetime import datetime
from typing import Literal

from rlhf_core.rundir import Frozen

LiveDecision = Literal["forward", "back", "continue"]
LiveFinding = Literal["worse", "well", "open", "too few", "unknown"]


class LiveMeasure(Frozen):
    """One measure of both versions' replies; higher is worse.

    champion, candidate: means over their replies, of which there are champion_n and candidate_n.
    lower, upper: one-sided bounds of candidate - champion. limit: the difference that is allowed.
    finding: 'worse' with lower above the limit, 'well' with upper below it, 'open' between, 'too
    few' for a measure that does not decide, and 'unknown' for one that was asked for and is not
    there, without which nothing goes forward. note: what is missing, and why.
    """

    name: str
    champion: float
    candidate: float
    champion_n: int
    candidate_n: int
    lower: float
    upper: float
    limit: float
    finding: LiveFinding
    note: str = ""


class LiveVerdict(Frozen):
    """The decision about a candidate by its live replies, and the evidence.

    champion, candidate: versions. look: from 1, 0 while there are too few replies; level: what it
    spends of the error budget. until: time of the last reply that counts. replies: digest of the
    ids of all that count.
    """

    decision: LiveDecision
    reason: str
    champion: str
    candidate: str
    champion_n: int
    candidate_n: int
    look: int = 0
    level: float | None = None
    until: datetime | None = None
    replies: str = ""
    measures: tuple[LiveMeasure, ...] = ()
