"""The live gate: judge a candidate by its live replies, and record what follows in the ledger."""

import time
from collections import Counter

from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.live.gate import MOST, decide_live
from rlhf_core.live.measures import JudgedReplies, JudgedReply
from rlhf_core.live.paired import PairedScores
from rlhf_core.live.verdict import LiveVerdict
from tasks.live.replies import DAY_MS, LiveReply, live_replies
from tasks.live.scores import paired_scores
from tasks.live.shadow import Shadowing
from tasks.live.thumbs import NAME, WantedThumbs, thumbs_of
from tasks.live.versions import wanted_versions
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ContestLost, contest_with
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.ledger_chain import record_chain
from tasks.promotion.looks import basis_of
from tasks.promotion.promotion import PromotionRequest, PromotionResult, promote
from tasks.promotion.recovery import recover
from tasks.promotion.transaction import begin_transaction
from tasks.registry import packaging, versions

PER_CANDIDATES = 20  # replies of the champion that are read for each of the candidate's
REASON = "live gate: "


def judge(
    registry: RegistryAliases,
    candidate: str,
    keep_days: int | None,
    shadowing: Shadowing | None = None,
    thumb: str = NAME,
) -> LiveVerdict:
    """Return the verdict on a candidate beside the present champion, from the traces in MLflow.

    keep_days: how long the traces are kept, None for ever. shadowing: how the candidate answers the
    champion's kept requests too, None: not at all. thumb: name of the feedback that counts.
    Raises BadInput where the first ones may have been deleted: other replies would stand at the
    same look.
    """
    champion, thumbs = wanted_versions(registry).champion, WantedThumbs(thumb)
    theirs = [_of(reply, thumbs) for reply in _kept(registry, candidate, MOST)]
    if theirs and keep_days is not None:
        _require_whole(theirs[0], candidate, keep_days)
    since = theirs[0].time_ms if theirs else 0
    kept = _kept(registry, champion, PER_CANDIDATES * MOST, since) if theirs else []
    ours, by_trace = (
        [_of(reply, thumbs) for reply in kept],
        {reply.trace_id: reply for reply in kept},
    )

    def scored(counted: JudgedReplies) -> PairedScores:
        assert shadowing is not None
        replies = [by_trace[reply.identity] for reply in counted]
        return paired_scores(registry, (champion, candidate), replies, shadowing)

    return decide_live((champion, candidate), ours, theirs, scored if shadowing else None)


def forward(registry: RegistryAliases, verdict: LiveVerdict) -> PromotionResult:
    """Promote the candidate as `rlhf promote` does, by the same checks.

    Raises PromotionRefused, for a candidate that has not won its contest too. The ledger keeps one
    refusal per contest: of another one for the same contest the message names that entry.
    """
    if refused := _lost_before(registry, verdict):
        raise ContestLost(
            f"{refused.outcome_reason} It was refused for this before: entry {refused.number} of"
            " the ledger. Nothing is recorded again."
        )
    request = PromotionRequest(
        version=verdict.candidate,
        reason=f"{REASON}{verdict.reason}",
        expects=verdict.champion,
        live=verdict,
    )
    return promote(registry, request)


def back(registry: RegistryAliases, verdict: LiveVerdict) -> int:
    """Record the candidate as an attempt that was refused; return the number of its entry."""
    recover(registry)
    entry = registry.ledger.append(
        "promote",
        registry.model("policy"),
        verdict.candidate,
        digest=registry.as_champion("policy", verdict.candidate).digest,
        expects=verdict.champion,
        live=verdict.model_dump_json(),
    )
    with begin_transaction(registry, entry):
        record_chain(registry.ledger, entry)
        registry.ledger.close(entry, "refused", f"{REASON}{verdict.reason}")
    return entry.number


def _lost_before(registry: RegistryAliases, verdict: LiveVerdict) -> LedgerEntry | None:
    """Return the last entry by which this gate was refused for the contest as it is now.

    None where the candidate has another contest by now, with another champion or evaluation.
    """
    candidate = registry.as_champion("policy", verdict.candidate)
    sought = (registry.model("policy"), candidate.version, candidate.digest, verdict.champion)
    found = [
        entry
        for entry in registry.ledger.entries()
        if (entry.model, entry.version, entry.digest, entry.expects) == sought
        and (entry.outcome, entry.step) == ("refused", "contest")
        and entry.live is not None
        and entry.live.decision == "forward"
    ]
    if not found:
        return None
    last = found[-1].contest
    lost = last is None or not last.passed  # else something after the contest has refused it
    was = last.identity if last else None
    return found[-1] if lost and was == _contest_now(registry, verdict) else None


def _contest_now(registry: RegistryAliases, verdict: LiveVerdict) -> tuple[str, ...] | None:
    """Return the identity of the candidate's recorded contest with the champion; None without."""
    champion = registry.as_champion("policy", verdict.champion)
    version = registry.version("policy", verdict.candidate)
    try:
        with versions.served_files(registry.workspace, version) as folder:
            decision = contest_with(packaging.read_decisions(folder), champion)
    except RLHFError:  # a new refusal, for its files
        return ()
    if decision is None or decision.contest is None:
        return None
    return basis_of(decision, decision.contest).identity


def _kept(registry: RegistryAliases, version: str, most: int, since_ms: int = 0) -> list[LiveReply]:
    found = live_replies(
        registry.client,
        registry.name,
        most=most,
        since_ms=since_ms,
        version=version,
        oldest_first=True,
    )
    return list(found)


def _of(found: LiveReply, wanted: WantedThumbs) -> JudgedReply:
    return JudgedReply(
        identity=found.trace_id,
        time_ms=found.time_ms,
        prompt=found.messages[-1]["content"] if found.messages else "",
        reply=found.reply,
        finish_reason=found.finish_reason,
        thumbs=tuple(thumbs_of(filter(wanted.takes, found.feedback), Counter())),
    )


def _require_whole(first: JudgedReply, candidate: str, keep_days: int) -> None:
    """Raise BadInput where replies from before the first one may have been deleted by age."""
    age = (1000 * time.time() - first.time_ms) / DAY_MS
    if age > keep_days - 1:
        raise BadInput(
            f"the first kept reply of version {candidate} is {age:.1f} days old, and replies are"
            f" deleted after {keep_days}; expected one that is younger than {keep_days - 1} days,"
            " so that every look has the replies that it had before. Decide by hand: rlhf promote,"
            " or rlhf live NAME --canary 0."
        )
