"""The live gate on a real registry: traces are read, and what follows is in the ledger."""

import json
import time

import mlflow
import pytest

from rlhf_core.errors import BadInput
from rlhf_core.live.verdict import LiveVerdict
from tasks.live.gate import back, forward, judge
from tasks.live.replies import DAY_MS, live_replies, store_logged
from tasks.promotion.audit import audit
from tasks.promotion.eligibility import ContestLost
from tasks.promotion.ledger_chain import chain_problem
from tasks.promotion.promotion import history

NOW = int(1000 * time.time()) - 100_000


@pytest.fixture
def store(registry, home):
    """Store replies of versions 1 and 2, the second's empty, from this number of days ago on."""
    folder = home / "replies"
    folder.mkdir()

    def stored(count: int, days: float = 0):
        for number in range(2 * count):
            version = 1 + number % 2
            record = {
                "time_ms": NOW - int(days * DAY_MS) + number,
                "duration_ms": 7,
                "request": {"messages": [{"role": "user", "content": f"question {number}"}]},
                "reply": {
                    "id": f"chatcmpl-{number}",
                    "model": f"tiny-policy-{version}",
                    "content": f"answer {number}" if version == 1 else "",
                    "finish_reason": "stop",
                    "usage": {"total_tokens": 9},
                },
            }
            (folder / f"{number}.json").write_text(json.dumps(record))
        while store_logged(registry.client, registry.workspace, "tiny", folder):
            pass
        return registry

    return stored


def verdict_of(decision: str, candidate: str) -> LiveVerdict:
    return LiveVerdict(
        decision=decision,
        reason="by all measures",
        champion="1",
        candidate=candidate,
        champion_n=200,
        candidate_n=200,
        look=3,
        replies="abc",
    )


def test_a_candidate_with_empty_replies_goes_back_and_the_ledger_keeps_why(store):
    registry = store(51)
    found = judge(registry, "2", keep_days=30)
    assert (found.decision, found.champion, found.candidate) == ("back", "1", "2")
    assert (found.look, found.candidate_n) == (1, 50) and "empty_share 1" in found.reason
    number = back(registry, found)
    entries = history(registry).entries
    assert [(e.number, e.outcome, e.live) for e in entries[-1:]] == [(number, "refused", found)]
    assert entries[-1].outcome_reason == f"live gate: {found.reason}"
    assert chain_problem(entries) == "" and registry.aliases()["policy@champion"] == "1"
    (event,) = [each for each in audit(registry.client).events if each.event == "live gate"]
    assert (event.version, event.outcome, event.evidence) == ("2", "back", found.replies)


@pytest.mark.parametrize(("name", "counted"), [("thumb", 1), ("solved", 2)])
def test_only_feedback_of_the_asked_name_is_a_thumb(store, name, counted):
    registry = store(51)
    for version in ("1", "2"):
        first, second = live_replies(registry.client, "tiny", version=version, most=2)
        for reply, value in ((first, "down"), (second, True)):
            mlflow.log_feedback(trace_id=reply.trace_id, name="solved", value=value)
        mlflow.log_feedback(trace_id=first.trace_id, name="thumb", value=False)
    found = judge(registry, "2", keep_days=None, thumb=name)
    (measure,) = [each for each in found.measures if each.name == "thumbs_down_share"]
    assert (measure.champion_n, measure.candidate_n) == (counted, counted)
    assert measure.candidate == 1 / counted


def test_replies_are_read_by_version_the_oldest_first(store):
    registry = store(3)
    found = live_replies(registry.client, "tiny", version="1", oldest_first=True)
    assert [each.reply for each in found] == ["answer 0", "answer 2", "answer 4"]


def test_without_replies_nothing_is_decided(registry):
    found = judge(registry, "2", keep_days=None)
    assert (found.decision, found.look, found.candidate_n) == ("continue", 0, 0)


def test_replies_of_which_older_ones_may_be_deleted_are_refused(store):
    registry = store(1, days=6.5)
    with pytest.raises(BadInput, match=r"is 6\.5 days old, and replies are deleted after 7"):
        judge(registry, "2", keep_days=7)
    assert judge(registry, "2", keep_days=30).decision == "continue"


def test_a_candidate_that_won_its_contest_too_is_promoted_with_the_evidence(registry):
    found = verdict_of("forward", "3")
    assert forward(registry, found).promoted
    entry = history(registry).entries[-1]
    assert (entry.outcome, entry.live) == ("done", found)
    assert entry.reason == "live gate: by all measures"
    assert registry.aliases()["policy@champion"] == "3"


def test_a_candidate_that_lost_its_contest_is_not_promoted_by_its_live_replies(registry):
    with pytest.raises(ContestLost, match="Version 5"):
        forward(registry, verdict_of("forward", "5"))
    entry = history(registry).entries[-1]
    assert entry.outcome == "refused" and entry.live is not None
    assert registry.aliases()["policy@champion"] == "1"


def test_a_refusal_for_the_same_contest_is_recorded_once(registry, registrar):
    """Bug: --apply once an hour wrote the same refusal into the ledger each time."""
    found = verdict_of("forward", "5")
    with pytest.raises(ContestLost) as first:
        forward(registry, found)
    number = history(registry).entries[-1].number
    with pytest.raises(ContestLost) as again:
        forward(registry, found.model_copy(update={"look": 4, "replies": "later"}))
    told = f" It was refused for this before: entry {number} of the ledger. Nothing is recorded"
    assert str(again.value) == f"{first.value}{told} again."
    assert history(registry).entries[-1].number == number
    registrar.policy(5, beats="1", wins=0.45)  # the same bytes, evaluated anew
    with pytest.raises(ContestLost, match=r"contest 2 on these held-out prompts\.$"):
        forward(registry, found)
    assert history(registry).entries[-1].number == number + 1
