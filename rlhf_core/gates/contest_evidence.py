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


class ContestBasis(Frozen):
    """The data and the rule of one contest, by which a further look at the data is known.

    Earlier releases kept neither rule nor items, and the first ones no prompts.
    """

    heldout: str  # digest of the held-out prompts
    evaluation: str  # digest of the evaluation's spec
    rule: str = ""  # metrics that decide, bound, threshold, confidence, smallest n
    items: str = ""  # digest of the items.parquet that it was decided on
    prompts: tuple[str, ...] = ()  # a sample of those looked at (rlhf_core/contest/prompts.py)

    @property
    def identity(self) -> tuple[str, str, str]:
        """The look that this contest is: the same evaluation, rule and items bring nothing new.

        Another metric, another threshold, or other replies and verdicts from a repeated evaluation
        are another chance to win, and so another look.
        """
        return self.evaluation, self.rule, self.items


class ContestEvidence(ContestBasis):
    """The comparisons of one contest, and its place among those on the same held-out prompts."""

    look: int  # from 1
    level: float | None  # one-sided level of this look; None where the estimate decides
    spent: float  # share of the error budget that this look and those before it spend
    comparisons: list[ContestComparison]
    note: str = ""  # on the reward models that took part

    @property
    def p_value(self) -> float | None:
        """The largest p-value of the comparisons, None when one has none."""
        values = [each.p_value for each in self.comparisons]
        known = [value for value in values if value is not None]
        return max(known) if known and len(known) == len(values) else None
