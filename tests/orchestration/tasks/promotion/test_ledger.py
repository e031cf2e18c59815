"""The ledger: one number an attempt, in spite of competition and lost answers; who lives and who is
dead; who was champion.
"""

import json
import os
import signal
import subprocess
import sys
import threading
from datetime import timedelta

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rlhf_core.errors import BadInput, PromotionRefused
from tasks.promotion.aliases import champion_history, rollback_targets
from tasks.promotion.ledger import (
    LEASE_SECONDS,
    AliasPlan,
    AliasState,
    Champion,
    Ledger,
    LedgerEntry,
    missing_numbers,
)
from tasks.records.process_identity import ProcessIdentity


@pytest.fixture
def ledger(registry) -> Ledger:
    return registry.ledger


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


# who was champion


@pytest.mark.parametrize(
    ("attempts", "champions"),
    [
        ([], []),
        ([("promote", 1), ("promote", 2)], [1, 2]),
        ([("promote", 1), ("promote", 2), ("rollback", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 2), ("rollback", 1)], [1]),
        (
            [("promote", 1), ("promote", 2), ("promote", 3), ("rollback", 1)],
            [1],
        ),  # version 2 was gone
        ([("promote", 1), ("promote", 2), ("promote", 1), ("rollback", 2), ("rollback", 1)], [1]),
        ([("promote", 1), ("promote", 2), ("rollback", 1), ("promote", 3)], [1, 3]),
        (
            [("promote", 1), ("promote", 2), ("promote", 1), ("promote", 3), ("rollback", 1)],
            [1, 2, 1],
        ),
    ],
)
def test_a_promotion_goes_on_top_and_a_rollback_takes_off(attempts, champions):
    entries = [
        closed(number, action, state(version))
        for number, (action, version) in enumerate(attempts, 1)
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


# entries


def test_an_entry_comes_back_as_it_was_written(ledger):
    entry = ledger.append(
        "promote", "tiny-policy", "2", digest="abc", expects="1", reason="because; 'quoted'\n| "
    )
    assert (
        entry.number == 2 and entry.is_live and entry.outcome is None
    )  # the promotion of the filled registry is entry 1
    ledger.record_step(entry, "switch")
    ledger.record(
        entry,
        "plan",
        AliasPlan(before={"a": None}, after={"a": "2"}, state=state(2)).model_dump_json(),
    )
    ledger.close(entry, "done", "well")
    (read,) = [other for other in ledger.entries() if other.number == 2]
    assert (read.reason, read.expects, read.digest) == ("because; 'quoted'\n| ", "1", "abc")
    assert (read.step, read.outcome, read.outcome_reason, read.plan.after) == (
        "switch",
        "done",
        "well",
        {"a": "2"},
    )
    assert read.by.count("@") == 1 and read.time <= read.stepped <= read.ended


def test_twenty_threads_get_twenty_numbers(ledger):
    start, failures = threading.Barrier(20), []

    def append() -> None:
        start.wait()
        try:
            ledger.append("promote", "tiny-policy", "2")
        except Exception as error:
            failures.append(error)

    threads = [threading.Thread(target=append) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = ledger.entries()
    assert not failures and [entry.number for entry in entries] == list(range(1, 22))
    assert len({entry.token for entry in entries}) == 21


def test_a_lost_answer_makes_no_second_entry(ledger, monkeypatch):
    write = MlflowClient.create_model_version

    def lossy(self, *args, **kwargs):
        write(self, *args, **kwargs)
        raise MlflowException("connection reset")

    monkeypatch.setattr(MlflowClient, "create_model_version", lossy)
    assert ledger.append("promote", "tiny-policy", "2").number == 2
    assert [entry.number for entry in ledger.entries()] == [1, 2]


def test_a_request_that_was_sent_twice_is_one_attempt(ledger, monkeypatch):
    write = MlflowClient.create_model_version

    def twice(self, *args, **kwargs):
        write(self, *args, **kwargs)
        return write(self, *args, **kwargs)

    monkeypatch.setattr(MlflowClient, "create_model_version", twice)
    assert ledger.append("promote", "tiny-policy", "2").number == 2
    assert [(entry.outcome, entry.is_live) for entry in ledger.entries()[1:]] == [
        (None, True),
        ("undone", False),
    ]


def test_what_cannot_be_written_is_raised_as_mlflow_says_it(ledger):
    with pytest.raises(MlflowException, match="name"):
        Ledger(ledger.client, "a/b").append("promote", "tiny-policy", "2")


def test_an_entry_that_somebody_else_ended_or_deleted_may_move_nothing_more(ledger):
    entry = ledger.append("promote", "tiny-policy", "2")
    ledger.close(entry, "undone", "taken for dead")
    with pytest.raises(PromotionRefused, match=r"ended as 'undone' \(taken for dead\)"):
        ledger.record_step(entry, "switch")
    other = ledger.append("promote", "tiny-policy", "2")
    ledger.client.delete_model_version(ledger.model, str(other.number))
    with pytest.raises(PromotionRefused, match="deleted"):
        ledger.require_open(other)


def test_a_version_made_by_hand_in_the_ledger_is_refused_not_guessed(ledger):
    ledger.client.create_model_version(ledger.model, "ledger:/x", tags={"action": "promote"})
    with pytest.raises(
        BadInput, match=r"version 2 of tiny-ledger is no entry .*Nothing was changed"
    ):
        ledger.entries()


def test_deleted_entries_leave_a_gap(ledger):
    for _ in range(2):
        ledger.append("promote", "tiny-policy", "2")
    ledger.client.delete_model_version(ledger.model, "2")
    assert missing_numbers(ledger.entries()) == [2]


# who is alive


def sleeper() -> tuple[subprocess.Popen, ProcessIdentity]:
    """A process and what it says of itself."""
    code = (
        "from tasks.records.process_identity import ProcessIdentity; print(ProcessIdentity.current().model_dump_json(),"
        " flush=True); input()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, ProcessIdentity.model_validate(json.loads(process.stdout.readline()))


def test_a_process_runs_until_it_is_killed_even_while_nobody_has_reaped_it():
    process, owner = sleeper()
    try:
        assert owner.is_running() is True and not owner.is_current
        process.send_signal(signal.SIGSTOP)
        assert owner.is_running() is True
        process.kill()
        os.waitid(
            os.P_PID, process.pid, os.WEXITED | os.WNOWAIT
        )  # dead, and still in the process table
        assert owner.is_running() is False
    finally:
        process.kill()
        process.communicate()
    assert owner.is_running() is False


def test_a_later_process_of_the_same_number_is_another_one():
    me = ProcessIdentity.current()
    assert me.is_current and me.is_running() is True
    assert me.model_copy(update={"started": "1"}).is_running() is False


@pytest.mark.parametrize(("age", "live"), [(LEASE_SECONDS - 60, True), (LEASE_SECONDS + 60, False)])
def test_an_attempt_on_another_machine_lives_as_long_as_its_lease(ledger, age, live):
    entry = ledger.append("promote", "tiny-policy", "2")
    away = entry.owner.model_copy(update={"space": "another boot", "host": "elsewhere"})
    assert away.is_running() is None
    stepped = entry.stepped - timedelta(seconds=age)
    assert entry.model_copy(update={"owner": away, "stepped": stepped}).is_live is live


def test_an_attempt_that_this_process_gave_up_is_dead(ledger):
    entry = ledger.append("promote", "tiny-policy", "2")
    assert entry.is_live
    ledger.release(entry)
    assert not entry.is_live
