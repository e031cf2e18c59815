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
    Desk,
    Evidence,
    check,
    drift,
    move,
    named,
    put_back,
    smoke_by_alias,
)
from tasks.promotion.eligibility import (
    ApprovalMissing,
    ContestLost,
    require_approval,
    require_victory,
)
from tasks.promotion.ledger import (
    KINDS,
    Aliases,
    AliasPlan,
    AliasState,
    LedgerEntry,
    advanced,
    earlier,
    stack,
)
from tasks.registry import versions
from tasks.registry.versions import CHAMPION, PREVIOUS


@dataclass
class Attempt:
    """State with a life: an entry of the ledger while its process works on it."""

    desk: Desk
    entry: LedgerEntry
    states: list[AliasState] = field(
        default_factory=list
    )  # champions by the ledger, the last one present
    found: Aliases = field(default_factory=dict)
    evidence: Evidence = field(
        default_factory=lambda: Evidence([], None)
    )  # of the model that is to be champion
    plan: AliasPlan | None = None

    @property
    def decisions(self) -> list[Decision]:
        return self.evidence.decisions

    @property
    def champion(self) -> AliasState:
        return self.states[-1] if self.states else AliasState()

    def begin(self, step: str) -> None:
        """Say where the attempt is. Raises PromotionRefused when somebody took this process for
        dead and ended the entry.
        """
        self.desk.ledger.step(self.entry, step)


@contextlib.contextmanager
def recorded(desk: Desk, entry: LedgerEntry) -> Iterator[Attempt]:
    """Work on an entry. Whatever is raised inside is undone and recorded, or left for the next
    command to undo.
    """
    attempt = Attempt(desk, entry)
    try:
        yield attempt
    except BaseException as error:
        _give_up(attempt, error)
        raise
    finally:
        desk.ledger.leave(entry)


def _give_up(attempt: Attempt, error: BaseException) -> None:
    desk, entry = attempt.desk, attempt.entry
    reason = str(error) if isinstance(error, RLHFError) else f"{type(error).__name__}: {error}"
    outcome = (
        "reverted" if attempt.plan else "refused" if isinstance(error, RLHFError) else "undone"
    )
    try:
        desk.ledger.require_open(entry)
        left = put_back(desk, entry, attempt.plan) if attempt.plan else ""
        desk.ledger.close(entry, outcome, reason + left)
    except PromotionRefused as ended:
        raise ended from error
    except Exception as trouble:
        raise StageFailed(
            f"{entry} could not be ended ({trouble}). The next rlhf promote, rollback or history of"
            f" {desk.name} completes or undoes it. It stopped because of this: {reason}"
        ) from error


def refuse_beside(other: LedgerEntry) -> None:
    """Raise PromotionRefused because of an earlier attempt without an outcome."""
    now = f"is at work (step '{other.step}')" if other.is_live else "has just been killed"
    raise PromotionRefused(
        f"{other} {now}, and one attempt at a time may move aliases. Nothing was changed; try"
        " again."
    )


# the steps, in order


def start(attempt: Attempt, *, adopt: bool) -> None:
    """Nobody else is at work; the aliases are where the ledger says, and where the promoter saw
    them. Or PromotionRefused.
    """
    desk, entry = attempt.desk, attempt.entry
    entries = desk.ledger.entries()
    for other in entries:
        if other.number < entry.number and not other.outcome:
            refuse_beside(other)
    attempt.states, attempt.found = stack(entries), desk.aliases()
    actual = attempt.found[f"{entry.kind}@{CHAMPION}"] or ""
    if entry.expects != actual:
        raise PromotionRefused(
            f"the champion of {entry.model} is {named(actual)}, expected {named(entry.expects)}:"
            " somebody else was faster, or moved it. Nothing was changed; look at rlhf history"
            f" {desk.name} and ask again if you still want to."
        )
    if wrong := drift(attempt.champion, attempt.found):
        if not adopt:
            raise PromotionRefused(
                f"aliases were moved, or versions deleted, behind the ledger's back: {wrong}."
                " Nothing was changed. Look at them; then say which version is to be champion"
                f" (rlhf promote {desk.name} VERSION --adopt --reason ...), or go back to the last"
                f" champion that is whole (rlhf rollback {desk.name} --adopt --reason ...)."
            )
        desk.ledger.add(entry, "adopted", wrong)


def examine(attempt: Attempt, target: AliasState) -> None:
    """Bytes and gate records of what is to be champion. Raises PromotionRefused."""
    attempt.begin("examine")
    for kind in KINDS:
        if target.version(kind) is None:
            continue
        if (
            kind == attempt.entry.kind
            or target.version(kind) != attempt.found[f"{kind}@{CHAMPION}"]
        ):
            found = check(attempt.desk, target, kind)
            attempt.evidence = found if kind == attempt.entry.kind else attempt.evidence


def contest(attempt: Attempt, target: AliasState) -> None:
    """The new policy has beaten exactly the present champion. Raises ContestLost."""
    attempt.begin("contest")
    present = attempt.champion.policy
    if present is None and (
        found := attempt.found[f"policy@{CHAMPION}"]
    ):  # adopted; the ledger begins here
        present = attempt.desk.seat("policy", found)
    if present and target.policy != present and not attempt.entry.contest_override:
        try:
            require_victory(attempt.decisions, present)
        except ContestLost as lost:
            raise ContestLost(
                f"Version {attempt.entry.version} of {attempt.entry.model} is not promoted: {lost}"
            ) from None


def consent(attempt: Attempt, target: AliasState) -> None:
    """A person has approved of the policy where its recipe asks for that. Raises ApprovalMissing."""
    if attempt.entry.approved_by:
        return
    try:
        require_approval(attempt.evidence.sign_off, target.policy.digest, attempt.decisions)
    except ApprovalMissing as missing:
        raise ApprovalMissing(
            f"Version {attempt.entry.version} of {attempt.entry.model} is not promoted: {missing}"
        ) from None


def switch(attempt: Attempt, target: AliasState) -> None:
    """Write down what moves, and move the alias 'champion'."""
    attempt.begin("switch")
    attempt.plan = _planned(attempt, target)
    attempt.desk.ledger.add(attempt.entry, "plan", attempt.plan.model_dump_json())
    move(attempt.desk, attempt.entry, attempt.plan, CHAMPION)


def _planned(attempt: Attempt, target: AliasState) -> AliasPlan:
    states = advanced(attempt.states, attempt.entry.action, target)
    after: Aliases = {}
    for kind in KINDS:
        numbers = [state.version(kind) for state in earlier(states, kind)]
        there = [
            number
            for number in numbers
            if versions.find(attempt.desk.client, attempt.desk.model(kind), number)
        ]
        after |= {
            f"{kind}@{CHAMPION}": target.version(kind),
            f"{kind}@{PREVIOUS}": there[0] if there else None,
        }
    return AliasPlan(before=attempt.found, after=after, state=target)


def smoke(attempt: Attempt) -> None:
    """Load what the alias serves. Raises PromotionRefused, whereupon everything is put back."""
    attempt.begin("smoke")
    try:
        smoke_by_alias(attempt.desk, attempt.entry, attempt.plan)
    except PromotionRefused as error:
        raise PromotionRefused(f"the aliases go back to where they were, for {error}") from error


def finish(attempt: Attempt, reason: str) -> None:
    """The alias 'previous', the tags of the version, the outcome."""
    attempt.begin("finish")
    desk, entry = attempt.desk, attempt.entry
    move(desk, entry, attempt.plan, PREVIOUS)
    if entry.contest_override:
        desk.client.set_model_version_tag(
            entry.model,
            entry.version,
            "contest_override",
            f"by {entry.by}: {entry.contest_override}",
        )
    if entry.approved_by:
        approval = f"{entry.approved} (entered by {entry.by})"
        desk.client.set_model_version_tag(entry.model, entry.version, "approved_by_hand", approval)
    desk.ledger.close(entry, "done", reason)
