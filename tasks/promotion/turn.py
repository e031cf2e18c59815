"""The turn of a pipeline run to promote, where several runs of a model end at once."""

import time

from rlhf_core.errors import PromotionRefused
from tasks.promotion import promotion
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.promotion import PromotionRequest, PromotionResult
from tasks.registry import versions

WAIT_SECONDS = 300.0  # a promotion loads and runs the model
POLL_SECONDS = 1.0
RENEWAL_SECONDS = 20.0  # from the first file of a registration to its last tag


def promote_in_turn(
    registry: RegistryAliases, request: PromotionRequest, *, wait_seconds: float = WAIT_SECONDS
) -> PromotionResult:
    """Promote when no other process moves aliases of the model.

    A refusal counts once no other promotion was under way: one that met another is asked again,
    for `wait_seconds`. One that met the files of a version while a twin of the run renewed them is
    asked again for RENEWAL_SECONDS. Raises what promotion.promote raises.
    """
    end = time.monotonic() + wait_seconds
    renewed_by = time.monotonic() + min(wait_seconds, RENEWAL_SECONDS)
    while True:
        before = _entries_when_free(registry, end)
        try:
            return promotion.promote(registry, request)
        except PromotionRefused as refused:
            own_entries = 1
            others = len(registry.ledger.entries()) - len(before) > own_entries
            met_another = others or any(entry.is_live for entry in before)
            if _met_renewal(refused) and time.monotonic() < renewed_by:
                time.sleep(POLL_SECONDS)
            elif not met_another or time.monotonic() >= end:
                raise


def _met_renewal(error: BaseException | None) -> bool:
    """Return True when a refusal comes from files that are not those of the version's tags.

    A run that registers the same bytes writes the files first and the tags a moment later.
    """
    while error is not None:
        if isinstance(error, versions.OtherFiles):
            return True
        error = error.__cause__
    return False


def _entries_when_free(registry: RegistryAliases, end: float) -> list[LedgerEntry]:
    """Return the ledger's entries once nobody works on one, at the latest at `end`."""
    entries = registry.ledger.entries()
    while any(entry.is_live for entry in entries) and time.monotonic() < end:
        time.sleep(POLL_SECONDS)
        entries = registry.ledger.entries()
    return entries
