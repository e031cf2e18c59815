"""The ledger: one number per transaction despite competition and lost answers, and its lease."""

import threading
from datetime import timedelta

import pytest
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from rlhf_core.errors import BadInput, PromotionRefused
from tasks.promotion.champions import AliasPlan, AliasState, Champion
from tasks.promotion.ledger import LEASE_SECONDS, Ledger
from tasks.promotion.ledger_chain import missing_numbers


@pytest.fixture
def ledger(registry) -> Ledger:
    return registry.ledger


STATE = AliasState(
    policy=Champion(version="2", digest="p"), reward=Champion(version="1", digest="r")
)


def test_an_entry_comes_back_as_it_was_written(ledger):
    entry = ledger.append(
        "promote", "tiny-policy", "2", digest="abc", expects="1", reason="because; 'quoted'\n| "
    )
    # the promotion of the filled registry is entry 1
    assert entry.number == 2 and entry.is_live and entry.outcome is None
    ledger.record_step(entry, "switch")
    ledger.record(
        entry,
        "plan",
        AliasPlan(before={"a": None}, after={"a": "2"}, state=STATE).model_dump_json(),
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


# is_live


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
