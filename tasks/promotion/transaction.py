"""One transaction that moves the champion, in steps such that a kill leaves nothing half done.

A transaction is an entry of the ledger first, and records what it will move before it moves
anything (its plan). The next command completes or undoes a killed one; no alias moves before.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlhf_core.errors import PromotionRefused, RLHFError, StageFailed
from tasks.promotion.aliases import (
    RegistryAliases,
    champion_history,
    drift,
    history_after,
    move_alias,
    restore_aliases,
    rollback_targets,
    smoke_test_alias,
    version_text,
)
from tasks.promotion.candidates import contest_entries
from tasks.promotion.champions import KINDS, AliasPlan, AliasState, AliasVersions, Champion
from tasks.promotion.eligibility import (
    ApprovalMissing,
    ContestLost,
    VersionEvidence,
    check_version,
    contest_with,
    require_approval,
    require_comparison,
    require_signed,
    require_win,
    state_at_promotion,
)
from tasks.promotion.ledger import LedgerEntry, TransactionOutcome
from tasks.promotion.ledger_chain import chain_digest
from tasks.promotion.looks import ContestOutcome, basis_of, look_of, outcome_of
from tasks.promotion.signed_approval import signed_approval
from tasks.records.run_record import ModelKind
from tasks.registry import versions
from tasks.registry.smoke_test import require_testable
from tasks.registry.versions import CHAMPION, PREVIOUS


@dataclass
class Transaction:
    """An entry of the ledger while its process works on it; the steps below fill it."""

    registry: RegistryAliases
    entry: LedgerEntry
    states: list[AliasState] = field(default_factory=list)  # see champion_history
    found: AliasVersions = field(default_factory=dict)
    # of the version that is to be champion
    evidence: VersionEvidence = field(default_factory=VersionEvidence)
    contest: ContestOutcome | None = None  # with the present champion
    plan: AliasPlan | None = None  # set before anything moves

    @property
    def champion(self) -> AliasState:
        """The present champions by the ledger."""
        return self.states[-1] if self.states else AliasState()

    def present(self, kind: ModelKind) -> Champion | None:
        """Return the present champion: by the ledger, or the adopted one where it has none."""
        found = self.found[f"{kind}@{CHAMPION}"]
        adopted = self.registry.as_champion(kind, found) if found else None
        return self.champion.champion(kind) or adopted

    def record_step(self, step: str) -> None:
        """Record where the transaction is.

        Raises PromotionRefused when somebody took this process for dead and ended the entry.
        """
        self.registry.ledger.record_step(self.entry, step)


@contextlib.contextmanager
def begin_transaction(registry: RegistryAliases, entry: LedgerEntry) -> Iterator[Transaction]:
    """Work on an entry; undo and record whatever is raised inside.

    If that fails too, the next command undoes it.
    """
    transaction = Transaction(registry, entry)
    try:
        yield transaction
    except BaseException as error:
        _roll_back(transaction, error)
        raise
    finally:
        registry.ledger.release(entry)


def _roll_back(transaction: Transaction, error: BaseException) -> None:
    registry, entry, plan = transaction.registry, transaction.entry, transaction.plan
    ours = isinstance(error, RLHFError)
    reason = str(error) if ours else f"{type(error).__name__}: {error}"
    outcome: TransactionOutcome = "reverted" if plan else "refused" if ours else "undone"
    try:
        registry.ledger.require_open(entry)
        left = restore_aliases(registry, entry, plan) if plan else ""
        registry.ledger.close(entry, outcome, reason + left)
    except PromotionRefused as ended:
        raise ended from error
    except Exception as trouble:
        raise StageFailed(
            f"{entry} could not be ended ({trouble}). The next rlhf promote, rollback or history of"
            f" {registry.name} completes or undoes it. It stopped because of this: {reason}"
        ) from error


def refuse_concurrent(other: LedgerEntry) -> None:
    """Raise PromotionRefused because an earlier transaction has no outcome yet."""
    now = f"is at work (step '{other.step}')" if other.is_live else "has just been killed"
    raise PromotionRefused(
        f"{other} {now}, and one attempt at a time may move aliases. Nothing was changed; try"
        " again.",
        code="RLHF-P002",
    )


# the steps, in order


def check_preconditions(transaction: Transaction, *, adopt: bool) -> None:
    """Check that nobody else is at work, and that no alias has moved.

    The aliases must be where the ledger has them, and where the promoter saw them. adopt: go on
    with aliases that differ from the ledger. Raises PromotionRefused.
    """
    registry, entry = transaction.registry, transaction.entry
    entries = registry.ledger.entries()
    for other in entries:
        if other.number < entry.number and not other.outcome:
            refuse_concurrent(other)
    registry.ledger.record(entry, "chain", chain_digest(entries, entry.number))
    transaction.states, transaction.found = champion_history(entries), registry.aliases()
    actual = transaction.found[f"{entry.kind}@{CHAMPION}"] or ""
    if entry.expects != actual:
        raise PromotionRefused(
            f"the champion of {entry.model} is {version_text(actual)}, expected"
            f" {version_text(entry.expects)}: somebody else was faster, or moved it. Nothing was"
            f" changed; look at rlhf history {registry.name} and ask again if you still want to."
        )
    if wrong := drift(transaction.champion, transaction.found):
        if not adopt:
            raise PromotionRefused(
                f"aliases were moved, or versions deleted, without an entry in the ledger: {wrong}."
                " Nothing was changed. Look at them; then say which version to make champion"
                f" (rlhf promote {registry.name} VERSION --adopt --reason ...), or go back to the"
                f" last champion that is whole (rlhf rollback {registry.name} --adopt --reason"
                " ...).",
                code="RLHF-P001",
            )
        registry.ledger.record(entry, "adopted", wrong)


def check_evidence(transaction: Transaction, target: AliasState) -> None:
    """Check the bytes and gate records of the next champions. Raises PromotionRefused."""
    transaction.record_step("examine")
    examine(transaction, target)


def examine(transaction: Transaction, target: AliasState) -> None:
    """Check the entry's model, and the other one if it moves. Raises PromotionRefused.

    A policy that is promoted is judged by the target; one that has been champion before by the
    ledger (state_at_promotion).
    """
    entry, registry = transaction.entry, transaction.registry
    judged = target
    if entry.kind == "reward" or entry.action == "rollback":
        judged = state_at_promotion(registry, registry.ledger.entries(), target)
    for kind, champion in target.champions():
        if kind == entry.kind or champion.version != transaction.found[f"{kind}@{CHAMPION}"]:
            found = check_version(registry, judged if kind == "policy" else target, kind)
            require_testable(registry.version(kind, champion.version))
            transaction.evidence = found if kind == entry.kind else transaction.evidence


def check_contest(transaction: Transaction, target: AliasState) -> None:
    """Check that the new policy has beaten exactly the present champion. Raises ContestLost."""
    present = transaction.present("policy")
    if present and target.policy != present:
        require_contest(transaction, present)
    else:
        transaction.record_step("contest")


def require_contest(transaction: Transaction, present: Champion) -> None:
    """Check that the new policy has beaten a champion. Raises ContestLost.

    The contest is recorded first: it is a look at the held-out prompts, however it ends.
    """
    transaction.record_step("contest")
    entry = transaction.entry
    outcome = transaction.contest = _recorded_contest(transaction, present)
    if entry.contest_override:
        return
    try:
        require_comparison(transaction.evidence.decisions, present)
        assert outcome is not None  # as the line before has checked
        require_win(outcome, present)
    except ContestLost as lost:
        raise ContestLost(
            f"Version {entry.version} of {entry.model} is not promoted: {lost}"
        ) from None


def _recorded_contest(transaction: Transaction, present: Champion) -> ContestOutcome | None:
    """Record the contest with the present champion in the ledger; None where there was none."""
    registry, entry = transaction.registry, transaction.entry
    decision = contest_with(transaction.evidence.decisions, present)
    if decision is None or decision.contest is None:
        return None
    evidence, entries = decision.contest, contest_entries(registry.client, registry.name)
    outcome = outcome_of(decision, evidence, look_of(entries, basis_of(decision, evidence)))
    registry.ledger.record(entry, "contest", outcome.model_dump_json())
    return outcome


def check_approval(transaction: Transaction, target: AliasState) -> None:
    """Check that a person approved of the policy, where its recipe requires it.

    Raises ApprovalMissing.
    """
    entry, evidence = transaction.entry, transaction.evidence
    if entry.approved_by:
        return
    assert target.policy is not None  # only the promotion of a policy has this step
    try:
        signed = signed_approval(transaction.registry, evidence, target.policy.digest)
        if signed:
            version = transaction.registry.version("policy", entry.version)
            if signed.state != "waiting":
                transaction.registry.ledger.record(entry, "approval", signed.model_dump_json())
            require_signed(signed, version.tags.get("registered_by", ""))
        else:
            require_approval(evidence.approval, target.policy.digest, evidence.decisions)
    except ApprovalMissing as missing:
        raise ApprovalMissing(
            f"Version {entry.version} of {entry.model} is not promoted: {missing}"
        ) from None


def move_champion(transaction: Transaction, target: AliasState) -> AliasPlan:
    """Record what moves, move the alias 'champion', and return the plan."""
    transaction.record_step("switch")
    registry, entry = transaction.registry, transaction.entry
    transaction.plan = plan = plan_of(transaction, target)
    registry.ledger.record(entry, "plan", plan.model_dump_json())
    move_alias(registry, entry, plan, CHAMPION)
    return plan


def plan_of(transaction: Transaction, target: AliasState) -> AliasPlan:
    """Return where each alias is, and where it goes."""
    registry = transaction.registry
    states = history_after(transaction.states, transaction.entry.action, target)
    after: AliasVersions = {}
    for kind in KINDS:
        numbers = [state.version(kind) for state in rollback_targets(states, kind)]
        there = [
            number
            for number in numbers
            if number and versions.find_version(registry.client, registry.model(kind), number)
        ]
        after |= {
            f"{kind}@{CHAMPION}": target.version(kind),
            f"{kind}@{PREVIOUS}": there[0] if there else None,
        }
    return AliasPlan(before=transaction.found, after=after, state=target)


def smoke_test(transaction: Transaction, plan: AliasPlan) -> None:
    """Load and run what the alias serves. Raises PromotionRefused, which restores the aliases."""
    transaction.record_step("smoke")
    try:
        smoke_test_alias(transaction.registry, transaction.entry, plan)
    except PromotionRefused as error:
        raise PromotionRefused(
            f"the aliases go back to where they were, because {error}"
        ) from error


def commit(transaction: Transaction, plan: AliasPlan, reason: str) -> None:
    """Move the alias 'previous', tag the version, and record the outcome."""
    transaction.record_step("finish")
    registry, entry = transaction.registry, transaction.entry
    move_alias(registry, entry, plan, PREVIOUS)
    tags = {
        "contest_override": entry.contest_override and f"by {entry.by}: {entry.contest_override}",
        "approved_by_hand": entry.approved_by and f"{entry.approved} (entered by {entry.by})",
    }
    for key, text in tags.items():
        if text:
            registry.client.set_model_version_tag(entry.model, entry.version, key, text)
    registry.ledger.close(entry, "done", reason)
