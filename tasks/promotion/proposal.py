"""Proposal of a candidate: the checks of a promotion at the end of a run, which moves no alias.

The ledger of the candidates keeps each proposal with its contest, so that a lost one counts as a
look at the held-out prompts. The promoter's promotion checks everything again.
"""

from tasks.promotion.aliases import RegistryAliases, champion_history
from tasks.promotion.candidates import candidates_of
from tasks.promotion.champions import Champion
from tasks.promotion.ledger_chain import record_chain
from tasks.promotion.promotion import PromotionResult, next_champions
from tasks.promotion.recovery import recover
from tasks.promotion.transaction import (
    begin_transaction,
    check_approval,
    check_evidence,
    require_contest,
)
from tasks.registry.versions import CHAMPION


def propose(registry: RegistryAliases, version: str, reason: str) -> PromotionResult:
    """Check a candidate policy of a registry name as a promotion would, and record the outcome.

    Raises what promotion.promote raises. Nothing of the registry name itself is written.
    """
    candidates, present = candidates_of(registry), _present_champion(registry)
    model, found = candidates.model("policy"), candidates.as_champion("policy", version)
    if present and present.digest == found.digest:
        sentence = f"Version {version} of {model} is the champion already, as version"
        sentence += f" {present.version} of {registry.model('policy')}."
        return PromotionResult(model, version, True, sentence)
    recover(candidates)
    entry = candidates.ledger.append("propose", model, version, digest=found.digest, reason=reason)
    with begin_transaction(candidates, entry) as transaction:
        record_chain(candidates.ledger, entry)
        transaction.found = candidates.aliases()
        state = next_champions(transaction)
        check_evidence(transaction, state)
        if present:
            require_contest(transaction, present)
        check_approval(transaction, state)
        candidates.ledger.close(entry, "done", "eligible; waits for a promoter")
    sentence = f"Version {version} of {model} is eligible and waits for a promoter: rlhf promote"
    sentence += f" {candidates.name} {version}."
    return PromotionResult(model, version, False, sentence, entry=entry.number)


def _present_champion(registry: RegistryAliases) -> Champion | None:
    """Return the champion of the registry name by its ledger; by the alias where there is none."""
    states = champion_history(registry.ledger.entries())
    number = registry.aliases()[f"policy@{CHAMPION}"]
    if states:
        return states[-1].policy
    return registry.as_champion("policy", number) if number else None
