"""The evidence of a contest with the champion, beside the decision that it belongs to."""

from rlhf_core.rundir import Frozen

CONTEST = ("promote", "champion")  # stage and gate of a contest's decision


class ContestComparison(Frozen):
    """One comparison with the champion: the share of decided prompts that the candidate won."""

    metric: str
    share: float | None
    n: int | None
    interval: tuple[float, float] | None
    p_value: float | None  # one-sided, of a true share that is not above the threshold
    passed: bool


class ContestEvidence(Frozen):
    """The comparisons of one contest, and its place among those on the same held-out prompts."""

    heldout: str  # digest of the held-out prompts
    evaluation: str  # digest of the evaluation's spec; the same one again is no further look
    look: int  # from 1
    level: float | None  # one-sided level of this look; None where the estimate decides
    spent: float  # share of the error budget that this look and those before it spend
    comparisons: list[ContestComparison]
    note: str = ""  # on the reward models that took part
    prompts: tuple[str, ...] = ()  # a sample of those looked at (rlhf_core/contest/prompts.py)

    @property
    def p_value(self) -> float | None:
        """The largest p-value of the comparisons, None when one has none."""
        values = [each.p_value for each in self.comparisons]
        known = [value for value in values if value is not None]
        return max(known) if known and len(known) == len(values) else None
