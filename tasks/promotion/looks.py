"""The looks at held-out prompts: the contests that the ledger records, and their outcome."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlhf_core.contest.prompts import share_prompts
from rlhf_core.gates.contest_evidence import ContestBasis, ContestEvidence
from rlhf_core.gates.decide import Decision

if TYPE_CHECKING:
    from tasks.promotion.ledger import LedgerEntry


class ContestOutcome(ContestBasis):
    """The contest of one transaction, as the ledger keeps it.

    look: its place among the contests on the same held-out prompts, from 1. level: one-sided, of
    this look; None where the estimate decided. metric: of the comparison that counted.
    """

    champion: str
    look: int
    metric: str
    of: str
    share: float | None
    n: int | None
    interval: tuple[float, float] | None
    confidence: float | None
    threshold: float
    level: float | None
    p_value: float | None
    passed: bool
    note: str = ""

    @property
    def identity(self) -> tuple[str, str, str]:
        """The look that this contest is; of an entry without a rule by its one metric."""
        rule = self.rule or _rule_of_one(self.of, self.metric, self.threshold)
        return self.evaluation, rule, self.items


def _rule_of_one(of: str, metric: str, threshold: float) -> str:
    """Return the rule of a contest that an earlier release decided."""
    return f"{of} of {metric} more than {threshold:.12g}"


def basis_of(decision: Decision, evidence: ContestEvidence) -> ContestBasis:
    """Return the data and the rule of a decided contest.

    The rule of an earlier release's record is that of the one metric that counted, as in its
    entries of the ledger. So the same record again is the look that it was.
    """
    known = {name: getattr(evidence, name) for name in ContestBasis.model_fields}
    rule = evidence.rule or _rule_of_one(decision.of, decision.metric, decision.threshold)
    return ContestBasis(**known | {"rule": rule})


def look_of(entries: Iterable["LedgerEntry"], basis: ContestBasis) -> int:
    """Return which look at its held-out prompts a contest is, from 1.

    An earlier contest counts if its split has the same digest, or shares prompts with this one:
    leaked prompts that are left out, or an added row, give a split another digest. The same
    evaluation, items and rule again are the look that they were: they bring nothing new.
    """
    seen = different_looks(looks_at(entries, basis.heldout, basis.prompts))
    return seen.index(basis.identity) + 1 if basis.identity in seen else len(seen) + 1


def different_looks(contests: Iterable[ContestOutcome]) -> list[tuple[str, str, str]]:
    """Return the identity of each different look, in the order of the contests."""
    return list(dict.fromkeys(contest.identity for contest in contests))


def looks_at(
    entries: Iterable["LedgerEntry"], heldout: str, prompts: tuple[str, ...]
) -> list[ContestOutcome]:
    """Return the recorded contests on these held-out prompts, or on a part of them."""
    return [
        contest
        for entry in entries
        if (contest := entry.contest)
        and (contest.heldout == heldout or share_prompts(contest.prompts, prompts))
    ]


def outcome_of(decision: Decision, evidence: ContestEvidence, look: int) -> ContestOutcome:
    """Return the outcome of a contest that is look `look` by now.

    Another contest may have come first since it was decided. Its level is the smaller one then, and
    the p-value must be below that one too.
    """
    from rlhf_core.contest.spending import level_of_look

    level, passed = evidence.level, decision.passed
    if level is not None and look > evidence.look:
        level = level_of_look(look, level, evidence.look)
        passed = passed and evidence.p_value is not None and evidence.p_value < level
    return ContestOutcome(
        **dict(basis_of(decision, evidence)),
        champion=decision.champion_digest or "",
        look=look,
        metric=decision.metric,
        of=decision.of,
        share=decision.value,
        n=decision.n,
        interval=decision.interval,
        confidence=decision.confidence,
        threshold=decision.threshold,
        level=level,
        p_value=evidence.p_value,
        passed=passed,
        note=evidence.note,
    )


def describe(outcome: ContestOutcome) -> str:
    """Return a contest as part of a sentence: share, metric, end of the interval, look."""
    if outcome.share is None:
        return f"nothing says what it wins by {outcome.metric}"
    text = f"it wins {outcome.share:.1%} of {outcome.n} decided prompts by {outcome.metric}"
    if outcome.of == "lower" and outcome.interval and outcome.confidence:
        text += f" (lower {100 * outcome.confidence:.4g}% bound {outcome.interval[0]:.1%})"
    return text
