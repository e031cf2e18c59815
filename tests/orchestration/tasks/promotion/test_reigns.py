"""Since when a champion is champion, by which evidence, and which proposal waits."""

from datetime import UTC, datetime, timedelta

import pytest

from tasks.promotion.champions import AliasPlan, AliasState, Champion
from tasks.promotion.ledger import LedgerEntry
from tasks.promotion.reigns import evidence_for, reigns, waiting_proposal
from tasks.records.process_identity import ProcessIdentity

START = datetime(2026, 11, 28, tzinfo=UTC)


def champion(name: str) -> Champion | None:
    return Champion(version=name[1:], digest=name) if name else None


def entry(number: int, action: str = "promote", outcome: str = "done", **changes) -> LedgerEntry:
    policy, reward = changes.pop("policy", ""), changes.pop("reward", "")
    state = AliasState(policy=champion(policy), reward=champion(reward))
    values = {
        "number": number,
        "action": action,
        "model": "tiny-policy",
        "version": "1",
        "by": "ann",
        "time": START + timedelta(minutes=number),
        "token": "t",
        "owner": ProcessIdentity.current(),
        "stepped": START,
        "outcome": outcome,
        "plan": AliasPlan(before={}, after={}, state=state) if outcome == "done" else None,
    }
    return LedgerEntry(**values | changes)


def since(entries: list[LedgerEntry]) -> list[tuple[str, str, int]]:
    return [(one.kind, one.champion.digest, one.entry.number) for one in reigns(entries)]


def test_a_reign_begins_where_the_model_became_champion_and_not_where_another_one_did():
    entries = [
        entry(1, policy="p1", reward="r1"),
        entry(2, policy="p2", reward="r1"),
        entry(3, outcome="refused"),
        entry(4, policy="p2", reward="r2"),
    ]
    assert since(entries[:1]) == [("policy", "p1", 1), ("reward", "r1", 1)]
    assert since(entries[:3]) == [("policy", "p2", 2), ("reward", "r1", 1)]
    assert since(entries) == [("policy", "p2", 2), ("reward", "r2", 4)]
    back = [*entries, entry(5, "rollback", policy="p1", reward="r1")]
    assert since(back) == [("policy", "p1", 5), ("reward", "r1", 5)]


def test_a_reign_ends_with_a_champion_that_has_none_after_it():
    entries = [entry(1, policy="p1", reward="r1"), entry(2, "recover", reward="r1")]
    assert since(entries) == [("reward", "r1", 1)]
    assert since([]) == []


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ["there was no champion to beat"]),
        ({"expects": "1", "reason": "release 12."}, ["release 12"]),
        (
            {"expects": "1", "approved_by": "bob", "approval_comment": "fine"},
            ["approved by bob: fine"],
        ),
        (
            {"expects": "1", "contest_override": "a demo", "reason": "why"},
            ["why; contest overridden: a demo"],
        ),
        ({"action": "rollback"}, []),
    ],
)
def test_the_evidence_is_what_the_attempt_was_allowed_by(changes, expected):
    assert evidence_for(entry(1, policy="p1", **changes)) == expected


def test_a_proposal_waits_until_its_bytes_are_promoted_or_a_later_one_is_eligible():
    first = entry(1, "propose", digest="a" * 8)
    second = entry(2, "propose", digest="b" * 8)
    lost = entry(3, "propose", "refused", digest="c" * 8)
    assert waiting_proposal([], []) is None
    assert waiting_proposal([first], []) == first
    assert waiting_proposal([first, second, lost], []) == second
    refused = entry(1, "promote", "refused", digest="b" * 8)
    assert waiting_proposal([first, second], [refused]) == second
    assert waiting_proposal([first, second], [entry(1, digest="b" * 8)]) is None
