"""The looks at held-out prompts: the contests that the ledger records, and their outcome."""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from rlhf_core.contest.prompts import share_prompts
from rlhf_core.gates.contest_evidence import ContestEvidence
from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Frozen

if TYPE_CHECKING:
    from tasks.promotion.ledger import LedgerEntry


class ContestOutcome(Frozen):
    """The contest of one transaction, as the ledger keeps it.

    look: its place among the contests on the same held-out prompts, from 1. level: one-sided, of
    this look; None where the estimate decided. prompts: a sample of those looked at, by which
    contests on a part of the same prompts are known; earlier releases kept none.
    """

    heldout: str
    evaluation: str
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
    prompts: tuple[str, ...] = ()


def look_of(
    entries: Iterable["LedgerEntry"], heldout: str, evaluation: str, prompts: tuple[str, ...] = ()
) -> int:
    """Return which look at these held-out prompts an evaluation is, from 1.

    An earlier contest counts if its split has the same digest, or shares prompts with this one:
    leaked prompts that are left out, or an added row, give a split another digest. The same
    evaluation again is the look that it was: it brings nothing new.
    """
    seen = dict.fromkeys(contest.evaluation for contest in looks_at(entries, heldout, prompts))
    return list(seen).index(evaluation) + 1 if evaluation in seen else len(seen) + 1


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
        heldout=evidence.heldout,
        evaluation=evidence.evaluation,
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
        prompts=evidence.prompts,
    )


def describe(outcome: ContestOutcome) -> str:
    """Return a contest as part of a sentence: share, metric, end of the interval, look."""
    if outcome.share is None:
        return f"nothing says what it wins by {outcome.metric}"
    text = f"it wins {outcome.share:.1%} of {outcome.n} decided prompts by {outcome.metric}"
    if outcome.of == "lower" and outcome.interval and outcome.confidence:
        text += f" (lower {100 * outcome.confidence:.4g}% bound {outcome.interval[0]:.1%})"
    return text
