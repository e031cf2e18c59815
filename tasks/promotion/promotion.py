"""Promotion, rollback and their history, for the command line and the pipeline."""

import contextlib
from dataclasses import dataclass

from rlhf_core.errors import PromotionRefused, RLHFError
from rlhf_core.live.verdict import LiveVerdict
from rlhf_core.stage_catalogue import ALIGNED_WITHOUT_REWARD
from tasks.execution.stage_calls import stages_torch
from tasks.promotion import announce
from tasks.promotion.aliases import RegistryAliases, champion_history, drift, rollback_targets
from tasks.promotion.champions import KINDS, AliasPlan, AliasState
from tasks.promotion.eligibility import check_version, overridden, state_at_promotion
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.ledger_chain import chain_problem, missing_numbers
from tasks.promotion.looks import describe
from tasks.promotion.recovery import recover
from tasks.promotion.transaction import (
    Transaction,
    begin_transaction,
    check_approval,
    check_contest,
    check_evidence,
    check_preconditions,
    commit,
    move_champion,
    smoke_test,
)
from tasks.records.run_record import ModelKind
from tasks.registry.smoke_test import recorded
from tasks.registry.versions import CHAMPION


@dataclass(frozen=True)
class PromotionRequest:
    """One request for a promotion or a rollback.

    expects: the champion as the caller saw it, '' for none; None takes it as it is. adopt: go on
    from the aliases as they are, though the ledger says otherwise. contest_override: why a policy
    may be champion that has not beaten the present one. approved_by: the person who approved,
    where the recipe requires that and the pipeline has no answer; with a comment. live: the verdict
    of the live gate that makes this request.
    """

    kind: ModelKind = "policy"
    version: str = ""
    reason: str = ""
    expects: str | None = None
    adopt: bool = False
    contest_override: str = ""
    approved_by: str = ""
    approval_comment: str = ""
    live: LiveVerdict | None = None


@dataclass(frozen=True)
class PromotionResult:
    """The outcome for a candidate. promoted: it is the champion now; reason: one sentence."""

    model: str
    version: str
    promoted: bool
    reason: str
    replaced: str | None = None  # version that was champion before
    entry: int | None = None  # of the ledger


def promote(registry: RegistryAliases, request: PromotionRequest) -> PromotionResult:
    """Make a version champion, and for a policy its reward model with it.

    Raises PromotionRefused; then nothing has changed.
    """
    recover(registry)
    entry = append_promotion(registry, request)
    if isinstance(entry, PromotionResult):
        return entry
    with begin_transaction(registry, entry) as transaction:
        check_preconditions(transaction, adopt=request.adopt)
        target = next_champions(transaction)
        check_evidence(transaction, target)
        if request.kind == "policy":
            check_contest(transaction, target)
            check_approval(transaction, target)
        plan = move_champion(transaction, target)
        smoke_test(transaction, plan)
        commit(transaction, plan, request.reason or request.contest_override or entry.approved)
    return _announced(transaction, plan, _result(transaction))


def append_promotion(
    registry: RegistryAliases, request: PromotionRequest
) -> LedgerEntry | PromotionResult:
    """Append the entry of a promotion; of the champion return the result, which needs no entry."""
    model = registry.model(request.kind)
    digest = registry.as_champion(request.kind, request.version).digest
    found = registry.aliases()
    present = found[f"{request.kind}@{CHAMPION}"] or ""
    expects = present if request.expects is None else request.expects
    if present == expects == request.version and not drift(_champion(registry), found):
        sentence = f"Version {request.version} of {model} is the champion already."
        return PromotionResult(model, request.version, True, sentence)
    return registry.ledger.append(
        "promote",
        model,
        request.version,
        digest=digest,
        expects=expects,
        reason=request.reason,
        contest_override=request.contest_override,
        approved_by=request.approved_by,
        approval_comment=request.approval_comment,
        live=request.live.model_dump_json() if request.live else "",
    )


def rollback(registry: RegistryAliases, request: PromotionRequest) -> PromotionResult:
    """Make the champion before the present one champion again; a second call goes further back.

    Raises as promote does.
    """
    recover(registry)
    entry, target = append_rollback(registry, request)
    with begin_transaction(registry, entry) as transaction:
        check_preconditions(transaction, adopt=request.adopt)
        check_evidence(transaction, target)
        plan = move_champion(transaction, target)
        smoke_test(transaction, plan)
        commit(transaction, plan, entry.reason)
    return _announced(transaction, plan, _result(transaction))


def append_rollback(
    registry: RegistryAliases, request: PromotionRequest
) -> tuple[LedgerEntry, AliasState]:
    """Append the entry of a rollback, and return it with the champions that it goes back to.

    Raises PromotionRefused where there are none.
    """
    target, skipped = _last_whole(registry, request.kind)
    champion = target.champion(request.kind)
    assert champion is not None  # see rollback_targets
    entry = registry.ledger.append(
        "rollback",
        registry.model(request.kind),
        champion.version,
        digest=champion.digest,
        expects=registry.aliases()[f"{request.kind}@{CHAMPION}"] or "",
        reason=" ".join(filter(None, [request.reason, *skipped])),
    )
    return entry, target


def _champion(registry: RegistryAliases) -> AliasState:
    states = champion_history(registry.ledger.entries())
    return states[-1] if states else AliasState()


def next_champions(transaction: Transaction) -> AliasState:
    """Return the champions after the promotion.

    A policy brings its run's reward model; a reward model leaves the policy. A policy that
    was aligned without a reward model may have none; then the present one stays.
    """
    registry, entry = transaction.registry, transaction.entry
    champion = registry.as_champion(entry.kind, entry.version)
    if entry.kind == "reward":
        return AliasState(policy=transaction.present("policy"), reward=champion)
    tags = registry.version("policy", entry.version).tags
    reward = tags.get("reward_version")
    if not reward and tags.get("align") in ALIGNED_WITHOUT_REWARD:
        return AliasState(policy=champion, reward=transaction.present("reward"))
    if not reward:
        raise PromotionRefused(
            f"version {entry.version} of {entry.model} does not say which reward model it was"
            " trained with (tag reward_version); it was registered by an earlier release. Run its"
            " recipe again, which adds that."
        )
    return AliasState(policy=champion, reward=registry.as_champion("reward", reward))


def _last_whole(registry: RegistryAliases, kind: ModelKind) -> tuple[AliasState, list[str]]:
    """Return the last state with another champion whose versions pass: bytes and gate records.

    The second value holds a sentence per state that was skipped. Raises PromotionRefused.
    """
    skipped: list[str] = []
    entries = registry.ledger.entries()
    for state in rollback_targets(champion_history(entries), kind):
        try:
            for each, _ in state.champions():
                judged = state_at_promotion(registry, entries, state) if each == "policy" else state
                check_version(registry, judged, each)
            return state, skipped
        except RLHFError as error:
            skipped.append(f"Skipped version {state.version(kind)}: {error}")
    nothing = f"{registry.model(kind)} has no earlier champion to go back to."
    left = f"Nothing was changed; rlhf history {registry.name} shows who has been champion."
    raise PromotionRefused(" ".join([nothing, *skipped, left]))


def _announced(
    transaction: Transaction, plan: AliasPlan, result: PromotionResult
) -> PromotionResult:
    """Announce each model that has another champion now to Prefect, and return the result."""
    for kind in KINDS:
        key, model = f"{kind}@{CHAMPION}", transaction.registry.model(kind)
        if (version := plan.after[key]) and version != plan.before[key]:
            payload = {
                "model": model,
                "version": version,
                "action": transaction.entry.action,
                "reason": result.reason,
            }
            announce.publish(announce.PROMOTED, announce.model_resource(model), payload)
    return result


def _result(transaction: Transaction) -> PromotionResult:
    entry, before = transaction.entry, transaction.found[f"{transaction.entry.kind}@{CHAMPION}"]
    contest = transaction.contest
    how = f"instead of version {before}" if before else "there was no champion before"
    if entry.action == "promote" and before and contest and contest.passed:
        how = f"{describe(contest)} against version {before}, contest {contest.look} on these"
        how += " held-out prompts"
    if gates := overridden(transaction.evidence.decisions):
        how += f"; overridden: {', '.join(gates)}"
    if entry.contest_override:
        how += f"; without beating it: {entry.contest_override}"
    how += f"; {entry.approved}" if entry.approved else ""
    version = transaction.registry.version(entry.kind, entry.version)
    if stages_torch() is None and (tested := recorded(version)):
        how += f"; not loaded here, where torch is not installed, but {tested.sentence}"
    reason = f"Version {entry.version} of {entry.model} is the champion: {how}."
    return PromotionResult(entry.model, entry.version, True, reason, before, entry.number)


@dataclass(frozen=True)
class History:
    """The entries of the ledger and the champion. problems: one sentence per disagreement."""

    entries: list[LedgerEntry]
    champion: AliasState
    problems: list[str]
    name: str  # the registry name


def history(registry: RegistryAliases) -> History:
    """Return the history, after ending the transactions that were killed."""
    problems: list[str] = []
    with contextlib.suppress(PromotionRefused):  # somebody is at work after all
        problems += recover(registry)
    entries = registry.ledger.entries()
    states = champion_history(entries)
    champion = states[-1] if states else AliasState()
    if all(entry.outcome for entry in entries) and (wrong := drift(champion, registry.aliases())):
        problems.append(
            f"Aliases were moved, or versions deleted, without an entry in the ledger: {wrong}."
        )
    if lost := missing_numbers(entries):
        problems.append(f"Entries {', '.join(map(str, lost))} were deleted.")
    if altered := chain_problem(entries):
        problems.append(altered)
    return History(entries, champion, problems, registry.name)
