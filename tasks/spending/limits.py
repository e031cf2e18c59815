"""The limits of a run: decided before a stage, while it runs and at its end, and recorded.

What counts is the time that the run's results have taken, also in earlier attempts and in earlier
runs: a limit is reached once, and the same run again is refused at once.
"""

from datetime import UTC, datetime

from rlhf_core.config import Limits
from rlhf_core.errors import LimitReached
from rlhf_core.gates.decide import LIMITS, Decision, refused
from tasks.records.run_record import Record
from tasks.run_context import RunContext
from tasks.spending.spent import Spent, prices_of, spent_by


def decide_limits(limits: Limits, spent: Spent, record: Record, stage: str) -> list[Decision]:
    """Return a decision per limit that is set: it passes while less is taken."""
    return [
        _decision(key, limit, spent, stage).model_copy(update={"commit": record.commit})
        for key, limit in limits.given.items()
    ]


def decisions_at_end(context: RunContext, stage: str) -> list[Decision]:
    """Return the decisions on the limits when a stage has ended.

    One that is reached is a warning there: what follows is refused, before it begins.
    """
    recipe, record = context.recipe, context.record
    if not recipe.limits.given:
        return []
    spent = spent_by(record, prices_of(recipe, context.workspace))
    found = decide_limits(recipe.limits, spent, record, stage)
    return [one if one.passed else one.model_copy(update={"severity": "warning"}) for one in found]


def limit_reached(
    decisions: list[Decision], spent: Spent, recipe: str, ended: LimitReached
) -> LimitReached:
    """Return the error that names the limits reached, what has taken it, and what to do.

    ended: says what has become of the stage; it is returned itself where no limit is reached.
    """
    stops = refused(decisions)
    if not stops:
        return ended
    reasons = "; ".join(f"{one.reason} ({spent.parts(_key(one))})" for one in stops)
    keys = " and ".join(one.gate for one in stops)
    return LimitReached(
        f"{keys} of the recipe {recipe!r} is reached: {reasons}. {stops[0].stage} {ended}. Raise"
        f" {keys}, and run again: it goes on from there."
    )


def _key(decision: Decision) -> str:
    return decision.gate.removeprefix(LIMITS)


def _decision(key: str, limit: float, spent: Spent, stage: str) -> Decision:
    taken = spent.amount(key)
    return Decision(
        stage=stage,
        gate=f"{LIMITS}{key}",
        metric=f"cost/run_{key}",
        value=taken,
        n=None,
        interval=None,
        bound="less than",
        threshold=limit,
        passed=taken < limit,
        reason=f"the run has taken {taken:.4g} {spent.unit(key)}, required less than {limit:g}",
        decided_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
