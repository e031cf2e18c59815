"""The turn of a pipeline run to promote, where several runs of a model end at once."""

import time

from rlhf_core.errors import PromotionRefused
from tasks.promotion import promotion
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.promotion import PromotionRequest, PromotionResult

WAIT_SECONDS = 300.0  # a promotion loads and runs the model
POLL_SECONDS = 1.0


def promote_in_turn(
    registry: RegistryAliases, request: PromotionRequest, *, wait_seconds: float = WAIT_SECONDS
) -> PromotionResult:
    """Promote when no other process moves aliases of the model.

    A refusal counts once no other promotion was under way: one that met another is asked again,
    for `wait_seconds`. Raises what promotion.promote raises.
    """
    end = time.monotonic() + wait_seconds
    while True:
        before = _entries_when_free(registry, end)
        try:
            return promotion.promote(registry, request)
        except PromotionRefused:
            own_entries = 1
            others = len(registry.ledger.entries()) - len(before) > own_entries
            if not (others or any(entry.is_live for entry in before)) or time.monotonic() >= end:
                raise


def _entries_when_free(registry: RegistryAliases, end: float) -> list[LedgerEntry]:
    """Return the ledger's entries once nobody works on one, at the latest at `end`."""
    entries = registry.ledger.entries()
    while any(entry.is_live for entry in entries) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        entries = registry.ledger.entries()
    return entries
