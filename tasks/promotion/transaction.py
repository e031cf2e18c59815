"""One attempt to move the champion, step by step, such that a kill anywhere leaves nothing half
done.

An attempt is an entry of the ledger before it is anything else, and writes down what it will move
before it moves anything (the entry's plan). Whoever comes next completes or undoes what a killed
one left; meanwhile nobody else moves an alias.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field

from rlhf_core.errors import PromotionRefused, RLHFError, StageFailed
from rlhf_core.gates.decide import Decision
from tasks.promotion.aliases import (
    RegistryAliases,
    VersionEvidence,
    check_version,
    drift,
    move_alias,
    restore_aliases,
    smoke_test_alias,
    version_text,
)
from tasks.promotion.eligibility import ApprovalMissing, ContestLost, require_approval, require_win
from tasks.promotion.ledger import (
    KINDS,
    AliasPlan,
    AliasState,
    AliasVersions,
    LedgerEntry,
    champion_history,
    history_after,
    rollback_targets,
)
from tasks.registry import versions
from tasks.registry.versions import CHAMPION, PREVIOUS


@dataclass
class Transaction:
    """State with a life: an entry of the ledger while its process works on it."""

    registry: RegistryAliases
    entry: LedgerEntry
    states: list[AliasState] = field(
        default_factory=list
    )  # champions by the ledger, the last one present
    found: AliasVersions = field(default_factory=dict)
    evidence: VersionEvidence = field(
        default_factory=lambda: VersionEvidence([], None)
    )  # of the model that is to be champion
    plan: AliasPlan | None = None

    @property
    def decisions(self) -> list[Decision]:
        return self.evidence.decisions

    @property
    def champion(self) -> AliasState:
        return self.states[-1] if self.states else AliasState()

    def record_step(self, step: str) -> None:
        """Say where the attempt is. Raises PromotionRefused when somebody took this process for
        dead and ended the entry.
        """
        self.registry.ledger.record_step(self.entry, step)


@contextlib.contextmanager
def begin_transaction(registry: RegistryAliases, entry: LedgerEntry) -> Iterator[Transaction]:
    """Work on an entry. Whatever is raised inside is undone and recorded, or left for the next
    command to undo.
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
    registry, entry = transaction.registry, transaction.entry
    reason = str(error) if isinstance(error, RLHFError) else f"{type(error).__name__}: {error}"
    outcome = (
        "reverted" if transaction.plan else "refused" if isinstance(error, RLHFError) else "undone"
    )
    try:
        registry.ledger.require_open(entry)
        left = restore_aliases(registry, entry, transaction.plan) if transaction.plan else ""
        registry.ledger.close(entry, outcome, reason + left)
    except PromotionRefused as ended:
        raise ended from error
    except Exception as trouble:
        raise StageFailed(
            f"{entry} could not be ended ({trouble}). The next rlhf promote, rollback or history of"
            f" {registry.name} completes or undoes it. It stopped because of this: {reason}"
        ) from error


def refuse_concurrent(other: LedgerEntry) -> None:
    """Raise PromotionRefused because of an earlier attempt without an outcome."""
    now = f"is at work (step '{other.step}')" if other.is_live else "has just been killed"
    raise PromotionRefused(
        f"{other} {now}, and one attempt at a time may move aliases. Nothing was changed; try"
        " again."
    )


# the steps, in order


def check_preconditions(transaction: Transaction, *, adopt: bool) -> None:
    """Nobody else is at work; the aliases are where the ledger says, and where the promoter saw
    them. Or PromotionRefused.
    """
    registry, entry = transaction.registry, transaction.entry
    entries = registry.ledger.entries()
    for other in entries:
        if other.number < entry.number and not other.outcome:
            refuse_concurrent(other)
    transaction.states, transaction.found = champion_history(entries), registry.aliases()
    actual = transaction.found[f"{entry.kind}@{CHAMPION}"] or ""
    if entry.expects != actual:
        raise PromotionRefused(
            f"the champion of {entry.model} is {version_text(actual)}, expected {version_text(entry.expects)}:"
            " somebody else was faster, or moved it. Nothing was changed; look at rlhf history"
            f" {registry.name} and ask again if you still want to."
        )
    if wrong := drift(transaction.champion, transaction.found):
        if not adopt:
            raise PromotionRefused(
                f"aliases were moved, or versions deleted, behind the ledger's back: {wrong}."
                " Nothing was changed. Look at them; then say which version is to be champion"
                f" (rlhf promote {registry.name} VERSION --adopt --reason ...), or go back to the last"
                f" champion that is whole (rlhf rollback {registry.name} --adopt --reason ...)."
            )
        registry.ledger.record(entry, "adopted", wrong)


def check_evidence(transaction: Transaction, target: AliasState) -> None:
    """Bytes and gate records of what is to be champion. Raises PromotionRefused."""
    transaction.record_step("examine")
    for kind in KINDS:
        if target.version(kind) is None:
            continue
        if (
            kind == transaction.entry.kind
            or target.version(kind) != transaction.found[f"{kind}@{CHAMPION}"]
        ):
            found = check_version(transaction.registry, target, kind)
            transaction.evidence = found if kind == transaction.entry.kind else transaction.evidence


def check_contest(transaction: Transaction, target: AliasState) -> None:
    """The new policy has beaten exactly the present champion. Raises ContestLost."""
    transaction.record_step("contest")
    present = transaction.champion.policy
    if present is None and (
        found := transaction.found[f"policy@{CHAMPION}"]
    ):  # adopted; the ledger begins here
        present = transaction.registry.as_champion("policy", found)
    if present and target.policy != present and not transaction.entry.contest_override:
        try:
            require_win(transaction.decisions, present)
        except ContestLost as lost:
            raise ContestLost(
                f"Version {transaction.entry.version} of {transaction.entry.model} is not promoted: {lost}"
            ) from None


def check_approval(transaction: Transaction, target: AliasState) -> None:
    """A person has approved of the policy where its recipe asks for that. Raises ApprovalMissing."""
    if transaction.entry.approved_by:
        return
    try:
        require_approval(transaction.evidence.sign_off, target.policy.digest, transaction.decisions)
    except ApprovalMissing as missing:
        raise ApprovalMissing(
            f"Version {transaction.entry.version} of {transaction.entry.model} is not promoted: {missing}"
        ) from None


def move_champion(transaction: Transaction, target: AliasState) -> None:
    """Write down what moves, and move the alias 'champion'."""
    transaction.record_step("switch")
    transaction.plan = _plan(transaction, target)
    transaction.registry.ledger.record(
        transaction.entry, "plan", transaction.plan.model_dump_json()
    )
    move_alias(transaction.registry, transaction.entry, transaction.plan, CHAMPION)


def _plan(transaction: Transaction, target: AliasState) -> AliasPlan:
    states = history_after(transaction.states, transaction.entry.action, target)
    after: AliasVersions = {}
    for kind in KINDS:
        numbers = [state.version(kind) for state in rollback_targets(states, kind)]
        there = [
            number
            for number in numbers
            if versions.find_version(
                transaction.registry.client, transaction.registry.model(kind), number
            )
        ]
        after |= {
            f"{kind}@{CHAMPION}": target.version(kind),
            f"{kind}@{PREVIOUS}": there[0] if there else None,
        }
    return AliasPlan(before=transaction.found, after=after, state=target)


def smoke_test(transaction: Transaction) -> None:
    """Load what the alias serves. Raises PromotionRefused, whereupon everything is put back."""
    transaction.record_step("smoke")
    try:
        smoke_test_alias(transaction.registry, transaction.entry, transaction.plan)
    except PromotionRefused as error:
        raise PromotionRefused(f"the aliases go back to where they were, for {error}") from error


def commit(transaction: Transaction, reason: str) -> None:
    """The alias 'previous', the tags of the version, the outcome."""
    transaction.record_step("finish")
    registry, entry = transaction.registry, transaction.entry
    move_alias(registry, entry, transaction.plan, PREVIOUS)
    if entry.contest_override:
        registry.client.set_model_version_tag(
            entry.model,
            entry.version,
            "contest_override",
            f"by {entry.by}: {entry.contest_override}",
        )
    if entry.approved_by:
        approval = f"{entry.approved} (entered by {entry.by})"
        registry.client.set_model_version_tag(
            entry.model, entry.version, "approved_by_hand", approval
        )
    registry.ledger.close(entry, "done", reason)
