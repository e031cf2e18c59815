"""What a killed attempt left behind: completed when its alias has moved and serves what it should,
undone otherwise.
"""

from rlhf_core.errors import RLHFError
from tasks.promotion import transaction as steps
from tasks.promotion.aliases import Desk, check, move, put_back
from tasks.promotion.ledger import KINDS, LedgerEntry
from tasks.promotion.transaction import Attempt, recorded
from tasks.registry.versions import CHAMPION


def recover(desk: Desk) -> list[str]:
    """End every attempt whose process is gone; a sentence for each. Does nothing while somebody is
    at work.

    Recovering is an attempt itself, with an entry of its own, so that no two do it at once.
    """
    left = [entry for entry in desk.ledger.entries() if not entry.outcome]
    if not left or any(entry.is_live for entry in left):
        return []
    entry = desk.ledger.append("recover", left[0].model, left[0].version)
    with recorded(desk, entry) as attempt:
        told = [_end(attempt, other) for other in _stranded(attempt)]
        desk.ledger.close(entry, "done", " ".join(told) or "Nothing was left to do.")
    return told


def _stranded(attempt: Attempt) -> list[LedgerEntry]:
    """Entries before this one without an outcome. Raises PromotionRefused when somebody is at work
    on one.
    """
    left = [
        entry
        for entry in attempt.desk.ledger.entries()
        if entry.number < attempt.entry.number and not entry.outcome
    ]
    for entry in left:
        if entry.is_live:
            steps.refuse_beside(entry)
    return left


def _end(attempt: Attempt, other: LedgerEntry) -> str:
    """Complete or undo one killed attempt. `other` is held by this attempt's own entry."""
    attempt.begin(f"recover {other.number}")
    desk, plan = attempt.desk, other.plan
    if plan is None:
        desk.ledger.close(
            other, "undone", f"killed in step '{other.step}', before it moved anything"
        )
        return f"Entry {other.number} had moved nothing."
    now, keys = desk.aliases(), [f"{kind}@{CHAMPION}" for kind in KINDS]
    if any(now[key] == plan.after[key] != plan.before[key] for key in keys):
        try:
            return _complete(desk, other)
        except RLHFError as error:
            why = str(error)
    else:
        why = "no alias had moved"
    note = put_back(desk, other, plan)
    desk.ledger.close(other, "undone", f"killed in step '{other.step}'; undone, for {why}{note}")
    return f"Entry {other.number} was undone: {why}{note}"


def _complete(desk: Desk, other: LedgerEntry) -> str:
    resumed = Attempt(desk, other, plan=other.plan)
    for kind in KINDS:
        if other.plan.state.version(kind):
            check(desk, other.plan.state, kind)
    move(desk, other, other.plan, CHAMPION)
    steps.smoke(resumed)
    steps.finish(resumed, f"killed in step '{other.step}', completed by the next command")
    return f"Entry {other.number} was completed."
