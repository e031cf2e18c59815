"""What a killed attempt left behind: completed when its alias has moved and serves what it should,
undone otherwise.
"""

from rlhf_core.errors import RLHFError
from tasks.promotion import transaction as steps
from tasks.promotion.aliases import RegistryAliases, check_version, move_alias, restore_aliases
from tasks.promotion.ledger import KINDS, LedgerEntry
from tasks.promotion.transaction import Transaction, begin_transaction
from tasks.registry.versions import CHAMPION


def recover(registry: RegistryAliases) -> list[str]:
    """End every attempt whose process is gone; a sentence for each. Does nothing while somebody is
    at work.

    Recovering is an attempt itself, with an entry of its own, so that no two do it at once.
    """
    left = [entry for entry in registry.ledger.entries() if not entry.outcome]
    if not left or any(entry.is_live for entry in left):
        return []
    entry = registry.ledger.append("recover", left[0].model, left[0].version)
    with begin_transaction(registry, entry) as transaction:
        sentences = [_resolve(transaction, other) for other in _unfinished(transaction)]
        registry.ledger.close(entry, "done", " ".join(sentences) or "Nothing was left to do.")
    return sentences


def _unfinished(transaction: Transaction) -> list[LedgerEntry]:
    """Entries before this one without an outcome. Raises PromotionRefused when somebody is at work
    on one.
    """
    left = [
        entry
        for entry in transaction.registry.ledger.entries()
        if entry.number < transaction.entry.number and not entry.outcome
    ]
    for entry in left:
        if entry.is_live:
            steps.refuse_concurrent(entry)
    return left


def _resolve(transaction: Transaction, other: LedgerEntry) -> str:
    """Complete or undo one killed transaction. `other` is held by this attempt's own entry."""
    transaction.record_step(f"recover {other.number}")
    registry, plan = transaction.registry, other.plan
    if plan is None:
        registry.ledger.close(
            other, "undone", f"killed in step '{other.step}', before it moved anything"
        )
        return f"Entry {other.number} had moved nothing."
    now, keys = registry.aliases(), [f"{kind}@{CHAMPION}" for kind in KINDS]
    if any(now[key] == plan.after[key] != plan.before[key] for key in keys):
        try:
            return _complete(registry, other)
        except RLHFError as error:
            why = str(error)
    else:
        why = "no alias had moved"
    note = restore_aliases(registry, other, plan)
    registry.ledger.close(
        other, "undone", f"killed in step '{other.step}'; undone, for {why}{note}"
    )
    return f"Entry {other.number} was undone: {why}{note}"


def _complete(registry: RegistryAliases, other: LedgerEntry) -> str:
    resumed = Transaction(registry, other, plan=other.plan)
    for kind in KINDS:
        if other.plan.state.version(kind):
            check_version(registry, other.plan.state, kind)
    move_alias(registry, other, other.plan, CHAMPION)
    steps.smoke_test(resumed)
    steps.commit(resumed, f"killed in step '{other.step}', completed by the next command")
    return f"Entry {other.number} was completed."
