"""The history of champions that the ledger gives, and the states that a rollback may go to."""

import pytest

from tasks.promotion.aliases import champion_history, rollback_targets
from tasks.promotion.champions import AliasPlan, AliasState, Champion
from tasks.promotion.ledger import LedgerEntry
from tasks.records.process_identity import ProcessIdentity


def state(policy: int, reward: int = 1) -> AliasState:
    return AliasState(
        policy=Champion(version=str(policy), digest="p"),
        reward=Champion(version=str(reward), digest="r"),
    )


def closed(
    number: int, action: str, champion: AliasState, outcome: str | None = "done"
) -> LedgerEntry:
    now = "2026-01-01T00:00:00+00:00"
    return LedgerEntry(
        number=number,
        action=action,
        model="x-policy",
        version="1",
        by="a@b",
        time=now,
        stepped=now,
        token=str(number),
        owner=ProcessIdentity.current(),
        plan=AliasPlan(before={}, after={}, state=champion),
        outcome=outcome,
    )


@pytest.mark.parametrize(
    ("transactions", "champions"),
    [
        ([], []),
        ([("promote", 1), ("promote", 2)], [1, 2]),
        ([("promote", 1), ("promote", 2), ("rollback", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1)], [1]),
        # version 2 was deleted
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("promote", 1), ("rollback", 2), ("rollback", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], [1, 3]),
        (
            [("promote", 1), ("promote", 2), ("promote", 1), ("promote", 3), ("rollback", 1)],
            [1, 2, 1],
        ),
    ],
)
def test_a_promotion_goes_on_top_and_a_rollback_takes_off(transactions, champions):
    entries = [
        closed(number, action, state(version))
        for number, (action, version) in enumerate(transactions, 1)
    ]
    assert champion_history(entries) == [state(version) for version in champions]


def test_only_what_was_done_counts():
    outcomes = ["refused", "reverted", "undone", None]
    entries = [
        closed(number, "promote", state(9), outcome) for number, outcome in enumerate(outcomes, 2)
    ]
    assert champion_history([closed(1, "promote", state(1)), *entries]) == [state(1)]


def test_earlier_champions_are_those_with_another_version_of_that_model():
    states = [state(1, 1), state(2, 1), state(2, 2), state(3, 2)]
    assert rollback_targets(states, "policy") == [state(2, 2), state(2, 1), state(1, 1)]
    assert rollback_targets(states, "reward") == [state(2, 1), state(1, 1)]
