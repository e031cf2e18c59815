"""Promotion, rollback and their history: what the command line and the pipeline ask for."""

import contextlib
from dataclasses import dataclass

from rlhf_core.errors import PromotionRefused, RLHFError
from tasks.promotion import announce
from tasks.promotion.aliases import Desk, drift
from tasks.promotion.eligibility import overridden
from tasks.promotion.ledger import KINDS, AliasState, LedgerEntry, earlier, gaps, stack
from tasks.promotion.recovery import recover
from tasks.promotion.transaction import (
    Attempt,
    consent,
    contest,
    examine,
    finish,
    recorded,
    smoke,
    start,
    switch,
)
from tasks.records.run_record import ModelKind
from tasks.registry import versions
from tasks.registry.versions import CHAMPION


@dataclass(frozen=True)
class PromotionRequest:
    """What is asked for. expects: the champion as the caller saw it, '' for none; None: as it is
    when asked.

    adopt: go on from the aliases as they are, though the ledger says otherwise. contest_override:
    why a policy may be champion that has not beaten the present one. approved_by: the person who
    approved, where the recipe asks for one and the pipeline has no answer; with a comment.
    """

    kind: ModelKind = "policy"
    version: str = ""
    reason: str = ""
    expects: str | None = None
    adopt: bool = False
    contest_override: str = ""
    approved_by: str = ""
    approval_comment: str = ""


@dataclass(frozen=True)
class PromotionResult:
    """What became of a candidate. promoted: it is the champion now; reason: one sentence."""

    model: str
    version: str
    promoted: bool
    reason: str
    replaced: str | None = None  # version that was champion before
    entry: int | None = None  # of the ledger


def promote(desk: Desk, request: PromotionRequest) -> PromotionResult:
    """Make a version champion, and for a policy its reward model with it. Raises PromotionRefused;
    then nothing has changed.
    """
    recover(desk)
    model = desk.model(request.kind)
    digest = desk.seat(request.kind, request.version).digest
    found = desk.aliases()
    present = found[f"{request.kind}@{CHAMPION}"] or ""
    expects = present if request.expects is None else request.expects
    if present == expects == request.version and not drift(_champion(desk), found):
        return PromotionResult(
            model,
            request.version,
            True,
            f"Version {request.version} of {model} is the champion already.",
        )
    entry = desk.ledger.append(
        "promote",
        model,
        request.version,
        digest=digest,
        expects=expects,
        reason=request.reason,
        contest_override=request.contest_override,
        approved_by=request.approved_by,
        approval_comment=request.approval_comment,
    )
    with recorded(desk, entry) as attempt:
        start(attempt, adopt=request.adopt)
        target = _target(attempt)
        examine(attempt, target)
        if request.kind == "policy":
            contest(attempt, target)
            consent(attempt, target)
        switch(attempt, target)
        smoke(attempt)
        finish(attempt, request.reason or request.contest_override or entry.approved)
    return _announced(attempt, _result(attempt))


def rollback(desk: Desk, request: PromotionRequest) -> PromotionResult:
    """Make the champion before the present one champion again; again: the one before that. Raises
    as promote does.
    """
    recover(desk)
    target, skipped = _last_whole(desk, request.kind)
    champion = target.policy if request.kind == "policy" else target.reward
    expects = desk.aliases()[f"{request.kind}@{CHAMPION}"] or ""
    reason = " ".join(filter(None, [request.reason, *skipped]))
    entry = desk.ledger.append(
        "rollback",
        desk.model(request.kind),
        champion.version,
        digest=champion.digest,
        expects=expects,
        reason=reason,
    )
    with recorded(desk, entry) as attempt:
        start(attempt, adopt=request.adopt)
        examine(attempt, target)
        switch(attempt, target)
        smoke(attempt)
        finish(attempt, reason)
    return _announced(attempt, _result(attempt))


def _champion(desk: Desk) -> AliasState:
    states = stack(desk.ledger.entries())
    return states[-1] if states else AliasState()


def _target(attempt: Attempt) -> AliasState:
    """Who is champion afterwards: a policy brings its run's reward model, a reward model leaves the
    policy.

    A policy made by DPO may have none; then the reward model stays.
    """
    desk, entry = attempt.desk, attempt.entry
    seat = desk.seat(entry.kind, entry.version)
    if entry.kind == "reward":
        return AliasState(policy=attempt.champion.policy, reward=seat)
    tags = desk.version("policy", entry.version).tags
    reward = tags.get("reward_version")
    if not reward and tags.get("align") == "dpo":
        return AliasState(policy=seat, reward=attempt.champion.reward)
    if not reward:
        raise PromotionRefused(
            f"version {entry.version} of {entry.model} does not say which reward model it was"
            " trained with (tag reward_version); it was registered by an earlier release. Run its"
            " recipe again, which adds that."
        )
    return AliasState(policy=seat, reward=desk.seat("reward", reward))


def _last_whole(desk: Desk, kind: ModelKind) -> tuple[AliasState, list[str]]:
    """The last state with another champion whose versions are there with their bytes; and which
    ones were skipped.
    """
    skipped = []
    for state in earlier(stack(desk.ledger.entries()), kind):
        try:
            for each, champion in (("policy", state.policy), ("reward", state.reward)):
                if champion:
                    with versions.served(desk.workspace, desk.known(each, champion)):
                        pass
            return state, skipped
        except RLHFError as error:
            skipped.append(f"Skipped version {state.version(kind)}: {error}")
    nothing = f"{desk.model(kind)} has no earlier champion to go back to."
    left = f"Nothing was changed; rlhf history {desk.name} shows who has been champion."
    raise PromotionRefused(" ".join([nothing, *skipped, left]))


def _announced(attempt: Attempt, result: PromotionResult) -> PromotionResult:
    """The result, told to Prefect once for each model that has another champion now."""
    for kind in KINDS:
        key, model = f"{kind}@{CHAMPION}", attempt.desk.model(kind)
        if (version := attempt.plan.after[key]) and version != attempt.plan.before[key]:
            payload = {
                "model": model,
                "version": version,
                "action": attempt.entry.action,
                "reason": result.reason,
            }
            announce.publish(announce.PROMOTED, announce.model_resource(model), payload)
    return result


def _result(attempt: Attempt) -> PromotionResult:
    entry, before = attempt.entry, attempt.found[f"{attempt.entry.kind}@{CHAMPION}"]
    fight = next(
        (
            decision
            for decision in attempt.decisions
            if decision.versus and decision.stage == "promote"
        ),
        None,
    )
    how = f"instead of version {before}" if before else "there was no champion before"
    if entry.action == "promote" and before and fight and fight.passed:
        how = f"it wins {fight.value:.1%} against version {before}"
    if gates := overridden(attempt.decisions):
        how += f"; overridden: {', '.join(gates)}"
    if entry.contest_override:
        how += f"; without beating it: {entry.contest_override}"
    how += f"; {entry.approved}" if entry.approved else ""
    reason = f"Version {entry.version} of {entry.model} is the champion: {how}."
    return PromotionResult(entry.model, entry.version, True, reason, before, entry.number)


@dataclass(frozen=True)
class History:
    """The ledger as it is read. problems: what does not agree with it, a sentence each."""

    entries: list[LedgerEntry]
    champion: AliasState
    problems: list[str]


def history(desk: Desk) -> History:
    """Every attempt, after those that were killed have been ended."""
    problems = []
    with contextlib.suppress(PromotionRefused):  # somebody is at work after all
        problems += recover(desk)
    entries = desk.ledger.entries()
    states = stack(entries)
    champion = states[-1] if states else AliasState()
    if all(entry.outcome for entry in entries) and (wrong := drift(champion, desk.aliases())):
        problems.append(
            f"Aliases were moved, or versions deleted, behind the ledger's back: {wrong}."
        )
    if lost := gaps(entries):
        problems.append(f"Entries {', '.join(map(str, lost))} were deleted.")
    return History(entries, champion, problems)
