"""The present champions with the attempts that made them, by the ledger alone."""

from collections.abc import Iterable

from rlhf_core.rundir import Frozen
from tasks.promotion.audit import notes_of
from tasks.promotion.champions import KINDS, Champion
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.looks import describe
from tasks.records.run_record import ModelKind


class Reign(Frozen):
    """A champion, and the entry of the ledger that made it one."""

    kind: ModelKind
    champion: Champion
    entry: LedgerEntry


def reigns(entries: Iterable[LedgerEntry]) -> list[Reign]:
    """Return the present champions of one registry name, the policy first.

    An attempt that leaves a model as it was leaves its reign, too: a reward model that comes with
    its second policy is champion since the first one.
    """
    found: dict[ModelKind, Reign] = {}
    for entry in entries:
        if entry.outcome != "done" or entry.plan is None:
            continue
        for kind in KINDS:
            champion = entry.plan.state.champion(kind)
            if champion is None:
                found.pop(kind, None)
            elif kind not in found or found[kind].champion != champion:
                found[kind] = Reign(kind=kind, champion=champion, entry=entry)
    return [found[kind] for kind in KINDS if kind in found]


def evidence_for(entry: LedgerEntry) -> list[str]:
    """Return why an attempt was allowed, a sentence without full stop for each piece of evidence.

    The gates of the version are not named: without them no attempt is allowed.
    """
    contest = ""
    if entry.contest:
        verdict = "won" if entry.contest.passed else "not won"
        contest = f"contest {verdict}: {describe(entry.contest)}"
    elif entry.action == "promote" and not entry.expects:
        contest = "there was no champion to beat"
    live = f"live gate, {entry.live.decision}: {entry.live.reason}" if entry.live else ""
    approval = entry.approval.sentence if entry.approval else ""
    parts = [contest, live, approval, notes_of(entry)]
    return list(dict.fromkeys(part.rstrip(". ") for part in parts if part))


def waiting_proposal(
    candidates: Iterable[LedgerEntry], entries: Iterable[LedgerEntry]
) -> LedgerEntry | None:
    """Return the latest proposal that waits for a promoter, None where there is none.

    candidates: the entries of the candidates' ledger; entries: of the registry name itself.
    """
    eligible = [one for one in candidates if one.action == "propose" and one.outcome == "done"]
    promoted = {one.digest for one in entries if one.action == "promote" and one.outcome == "done"}
    if not eligible or eligible[-1].digest in promoted:
        return None
    return eligible[-1]
