"""Recovery of killed transactions: complete those whose alias has moved and serves what it should.

The others are undone.
"""

from rlhf_core.errors import RLHFError
from tasks.promotion.aliases import RegistryAliases, move_alias, restore_aliases
from tasks.promotion.champions import KINDS, AliasPlan
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.transaction import (
    Transaction,
    begin_transaction,
    commit,
    examine,
    refuse_concurrent,
    smoke_test,
)
from tasks.registry.versions import CHAMPION


def recover(registry: RegistryAliases) -> list[str]:
    """End every transaction whose process is gone; return a sentence about each.

    It does nothing while somebody is at work. A recovery is a transaction itself, with an entry of
    its own, so that no two recoveries run at once.
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
    """Return the entries before this one without an outcome.

    Raises PromotionRefused when somebody is at work on one.
    """
    left = [
        entry
        for entry in transaction.registry.ledger.entries()
        if entry.number < transaction.entry.number and not entry.outcome
    ]
    for entry in left:
        if entry.is_live:
            refuse_concurrent(entry)
    return left


def _resolve(transaction: Transaction, other: LedgerEntry) -> str:
    """Complete or undo one killed transaction, to which this one has the right."""
    transaction.record_step(f"recover {other.number}")
    registry, plan = transaction.registry, other.plan
    killed = f"killed in step '{other.step}'"
    if plan is None:
        registry.ledger.close(other, "undone", f"{killed}, before it moved anything")
        return f"Entry {other.number} had moved nothing."
    now, keys = registry.aliases(), [f"{kind}@{CHAMPION}" for kind in KINDS]
    if any(now[key] == plan.after[key] != plan.before[key] for key in keys):
        try:
            _complete(registry, other, plan)
            return f"Entry {other.number} was completed."
        except RLHFError as error:
            why = str(error)
    else:
        why = "no alias had moved"
    note = restore_aliases(registry, other, plan)
    registry.ledger.close(other, "undone", f"{killed}; undone because {why}{note}")
    return f"Entry {other.number} was undone: {why}{note}"


def _complete(registry: RegistryAliases, other: LedgerEntry, plan: AliasPlan) -> None:
    resumed = Transaction(registry, other, found=plan.before, plan=plan)
    examine(resumed, plan.state)
    move_alias(registry, other, plan, CHAMPION)
    smoke_test(resumed, plan)
    commit(resumed, plan, f"killed in step '{other.step}', completed by the next command")
