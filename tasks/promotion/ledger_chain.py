"""The chain of the ledger: an entry whose turn has come holds the digest of all entries before it.

By then these have ended and never change again. Who alters or deletes one of them later would have
to alter the digest in every entry after it.
"""

from collections.abc import Iterable

from rlhf_core.digest import digest_json
from tasks.promotion.ledger import Ledger, LedgerEntry


def chain_digest(entries: Iterable[LedgerEntry], number: int) -> str:
    """Return the digest of the entries before `number`, with every tag that MLflow holds of them.

    Their own digests of the entries before them are among the tags.
    """
    return digest_json([[entry.number, entry.tags] for entry in entries if entry.number < number])


def record_chain(ledger: Ledger, entry: LedgerEntry) -> None:
    """Record the digest of the entries before this one, unless another of them still goes on.

    For an attempt that moves no alias, and so waits for nobody.
    """
    entries = ledger.entries()
    if all(other.outcome for other in entries if other.number < entry.number):
        ledger.record(entry, "chain", chain_digest(entries, entry.number))


def chain_problem(entries: list[LedgerEntry]) -> str:
    """Return what was altered after it had ended, as one sentence; '' if the chain holds."""
    intact = 0
    for entry in entries:
        if not entry.chain:
            continue
        if entry.chain != chain_digest(entries, entry.number):
            since = f"entries {max(intact, 1)} to {entry.number - 1}"
            return (
                f"One of {since} was altered, added or deleted after entry {entry.number} had"
                " recorded their digest: the ledger is not what its promoters saw."
            )
        intact = entry.number
    return ""


def covered(entries: list[LedgerEntry]) -> int:
    """Return the number of the last entry that a later one holds the digest of, 0 without one."""
    chained = [entry.number for entry in entries if entry.chain]
    before = [entry.number for entry in entries if chained and entry.number < chained[-1]]
    return max(before, default=0)


def missing_numbers(entries: list[LedgerEntry]) -> list[int]:
    """Return the numbers of the entries that were deleted."""
    numbers = {entry.number for entry in entries}
    return [number for number in range(1, max(numbers, default=0)) if number not in numbers]
