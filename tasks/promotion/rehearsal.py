"""Rehearsal of a promotion or rollback: the same checks on the same records; nothing is written.

The steps are those of the transaction. They run on a ledger that takes no entry. Left out is what
needs the moved alias: the smoke test, which loads and runs what the alias serves.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from rlhf_core.errors import PromotionRefused
from tasks.execution.stage_calls import stages_torch
from tasks.promotion.aliases import RegistryAliases, version_text
from tasks.promotion.champions import AliasState, AliasVersions
from tasks.promotion.eligibility import overridden, require_approval
from tasks.promotion.ledger import Action, Ledger, LedgerEntry, Recorded, TransactionOutcome
from tasks.promotion.looks import describe
from tasks.promotion.promotion import (
    PromotionRequest,
    PromotionResult,
    append_promotion,
    append_rollback,
    next_champions,
)
from tasks.promotion.transaction import (
    Transaction,
    check_contest,
    check_evidence,
    check_preconditions,
    plan_of,
)
from tasks.records.process_identity import ProcessIdentity
from tasks.registry import versions
from tasks.registry.versions import CANDIDATE_OF
from tasks.tracking.account import account_at


@dataclass(frozen=True)
class RehearsedStep:
    """One step and what it says. passed: None where only the real command can know."""

    name: str
    passed: bool | None
    reason: str


@dataclass(frozen=True)
class Rehearsal:
    """The effect of a promotion or rollback. before, after: each alias; empty where it is stopped.

    allowed: no step that was tried has refused.
    """

    action: Action
    model: str
    version: str
    steps: list[RehearsedStep] = field(default_factory=list)
    before: AliasVersions = field(default_factory=dict)
    after: AliasVersions = field(default_factory=dict)

    @property
    def allowed(self) -> bool:
        """True if no step that was tried has refused."""
        return all(step.passed is not False for step in self.steps)

    @property
    def reason(self) -> str:
        """The effect, in one sentence."""
        verb = {"rollback": "roll back to"}.get(self.action, str(self.action))
        what = f"{verb} version {self.version} of {self.model}"
        if not self.version:
            what = f"roll back {self.model}"
        if refused := [step for step in self.steps if step.passed is False]:
            return f"Would not {what}: {refused[0].reason}"
        moved = [
            f"{alias} from {version_text(self.before[alias])} to {version_text(self.after[alias])}"
            for alias in self.after
            if self.after[alias] != self.before[alias]
        ]
        return f"Would {what}: {'; '.join(moved) or 'nothing moves'}."


class _RehearsedLedger(Ledger):
    """The ledger as it is; an entry that is appended exists in this process alone."""

    def append(self, action: Action, model: str, version: str, **tags: str) -> LedgerEntry:
        numbers = [entry.number for entry in self.entries()]
        account, now = account_at(self.client.tracking_uri), datetime.now(UTC)
        known = {key: value for key, value in tags.items() if value and key != "live"}
        values = known | {"action": action, "model": model, "version": version}
        values |= {"by": account.name, "identity": account.identity, "token": "rehearsal"}
        owner = ProcessIdentity.current()
        number = max(numbers, default=0) + 1
        return LedgerEntry.model_validate(
            values | {"number": number, "time": now, "stepped": now, "owner": owner}
        )

    def record_step(self, entry: LedgerEntry, name: str) -> None:
        """Record nothing."""

    def record(self, entry: LedgerEntry, what: Recorded, text: str) -> None:
        """Record nothing."""

    def close(self, entry: LedgerEntry, outcome: TransactionOutcome, reason: str) -> None:
        """Record nothing."""


class _RehearsedAliases(RegistryAliases):
    """The aliases of a registry name beside a ledger that takes no entry."""

    @property
    def ledger(self) -> Ledger:
        return _RehearsedLedger(self.client, self.name)


def rehearse_promotion(registry: RegistryAliases, request: PromotionRequest) -> Rehearsal:
    """Return what promotion.promote would do. Raises BadInput for a version that does not exist."""
    version = registry.require_version(request.kind, request.version)
    shadow = _RehearsedAliases(registry.client, registry.workspace, registry.name)
    made = Rehearsal("promote", registry.model(request.kind), request.version)
    if name := version.tags.get(CANDIDATE_OF):
        return _of_candidate(made, registry, name, version.tags.get("digest", ""))
    entry = append_promotion(shadow, request)
    if isinstance(entry, PromotionResult):
        made.steps.append(RehearsedStep("aliases", True, entry.reason))
        return made
    transaction = Transaction(shadow, entry)
    if not _aliases(made, transaction, request):
        return made
    target: list[AliasState] = []
    if not _tried(
        made,
        "models",
        lambda: target.append(next_champions(transaction)),
        lambda: _brings(transaction, target[0]),
    ):
        return made
    if _records(made, transaction, target[0]) and request.kind == "policy":
        _tried(
            made,
            "contest",
            lambda: check_contest(transaction, target[0]),
            lambda: _contest(transaction),
        )
        _approval(made, transaction, target[0])
    return _planned(made, transaction, target[0])


def rehearse_rollback(registry: RegistryAliases, request: PromotionRequest) -> Rehearsal:
    """Return what promotion.rollback would do."""
    shadow = _RehearsedAliases(registry.client, registry.workspace, registry.name)
    try:
        entry, target = append_rollback(shadow, request)
    except PromotionRefused as error:
        step = RehearsedStep("earlier champion", False, str(error))
        return Rehearsal("rollback", registry.model(request.kind), "", [step])
    made = Rehearsal("rollback", entry.model, entry.version)
    transaction = Transaction(shadow, entry)
    if _aliases(made, transaction, request) and _records(made, transaction, target):
        return _planned(made, transaction, target)
    return made


# the steps


def _tried(
    made: Rehearsal, name: str, check: Callable[[], object], told: Callable[[], str]
) -> bool:
    """Add a step to the rehearsal; return True if its check passed."""
    try:
        check()
    except PromotionRefused as error:
        made.steps.append(RehearsedStep(name, False, str(error)))
        return False
    made.steps.append(RehearsedStep(name, True, told()))
    return True


def _aliases(made: Rehearsal, transaction: Transaction, request: PromotionRequest) -> bool:
    """Check the aliases; return True if the next steps can be tried, also after a refusal."""
    _tried(
        made,
        "aliases",
        lambda: check_preconditions(transaction, adopt=request.adopt),
        lambda: f"the champion is {version_text(transaction.entry.expects)}, and the ledger agrees",
    )
    return bool(transaction.found)


def _brings(transaction: Transaction, target: AliasState) -> str:
    versions_of = [f"{kind} version {champion.version}" for kind, champion in target.champions()]
    return f"the champions would be {' and '.join(versions_of)}"


def _records(made: Rehearsal, transaction: Transaction, target: AliasState) -> bool:
    def told() -> str:
        gates = [gate for gate in transaction.evidence.decisions if not gate.is_contest]
        changed = overridden(gates)
        more = f"; overridden: {', '.join(changed)}" if changed else ""
        return f"the bytes are unchanged, and all {len(gates)} gate records passed{more}"

    return _tried(made, "records", lambda: check_evidence(transaction, target), told)


def _contest(transaction: Transaction) -> str:
    contest, entry = transaction.contest, transaction.entry
    if entry.contest_override:
        return f"without beating the champion: {entry.contest_override}"
    if contest is None:
        return "there is no champion to beat"
    return f"{describe(contest)}, contest {contest.look} on these held-out prompts"


def _approval(made: Rehearsal, transaction: Transaction, target: AliasState) -> None:
    """Add the step of the approval. A server with accounts is not asked: that makes a request."""
    entry, evidence = transaction.entry, transaction.evidence
    approval, policy = evidence.approval, target.policy
    assert policy is not None  # only the promotion of a policy has this step
    is_asked = approval is not None and approval.required and not entry.approved_by
    if is_asked and account_at(transaction.registry.client.tracking_uri).is_authenticated:
        told = "an approver's account must have approved by rlhf approve; looked up when promoting"
        made.steps.append(RehearsedStep("approval", None, told))
        return

    def check() -> None:
        if not entry.approved_by:
            require_approval(approval, policy.digest, evidence.decisions)

    record = approval.record if approval and is_asked else None
    told = record.sentence if record else entry.approved or "its recipe requires none"
    _tried(made, "approval", check, lambda: told)


def _planned(made: Rehearsal, transaction: Transaction, target: AliasState) -> Rehearsal:
    """Return the rehearsal with the moves, if nothing stops them."""
    if made.allowed:
        plan = plan_of(transaction, target)
        made.before.update(plan.before)
        made.after.update(plan.after)
        told = "loads and runs what the alias serves; tried when it has moved"
        if stages_torch() is None:  # then check_evidence has found the record of an earlier test
            told = "torch is not installed here; an earlier test of the same bytes is recorded"
        made.steps.append(RehearsedStep("smoke test", None, told))
    return made


def _of_candidate(made: Rehearsal, registry: RegistryAliases, name: str, digest: str) -> Rehearsal:
    """Return the rehearsal of a candidate, whose copy is what the checks are about."""
    copy = versions.version_with_digest(registry.client, f"{name}-policy", digest)
    told = f"the candidate would be copied to {name} first; the checks are about the copy"
    if copy is not None:
        told = f"its copy is version {copy.version} of {copy.name}: rehearse that one"
    made.steps.append(RehearsedStep("copy", None, told))
    return made
