"""Live replies as traces: stored, read, and deleted by age."""

import json
import os
import time

import pytest

from tasks.live.replies import (
    delete_older,
    delete_refused,
    experiment_name,
    live_replies,
    store_logged,
    store_rest,
    trace_of,
)
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

DAY_MS = 86_400_000
NOW = int(1000 * time.time())


def record(number: int, age: int) -> dict:
    """Return a logged reply of this age in days."""
    return {
        "time_ms": NOW - age * DAY_MS,
        "duration_ms": 7,
        "request": {
            "messages": [{"role": "user", "content": f"question {number}"}],
            "temperature": 0.5,
        },
        "reply": {
            "id": f"chatcmpl-{number}",
            "model": f"tiny-policy-{number + 1}",
            "content": f"answer {number}",
            "finish_reason": "stop",
            "usage": {"total_tokens": 9},
        },
    }


@pytest.fixture
def store(home):
    """Store logged replies of these ages in days; return the client of the store."""
    workspace = Workspace(home)
    folder = home / "replies"
    folder.mkdir(exist_ok=True)
    client = connect(workspace.tracking_uri)

    def stored(*ages: int):
        for number, age in enumerate(ages):
            (folder / f"{number}.json").write_text(json.dumps(record(number, age)))
        (folder / ".half.json").write_text("{")  # one that is being written
        return client, store_logged(client, workspace, "tiny", folder), folder

    return stored


def test_a_stored_reply_is_read_back_with_its_version(store):
    client, count, folder = store(1, 0)
    newest, oldest = live_replies(client, "tiny")
    assert count == 2 and [file.name for file in folder.iterdir()] == [".half.json"]
    assert (newest.model, newest.version) == ("tiny-policy-2", "2")
    assert newest.messages == [{"role": "user", "content": "question 1"}]
    assert newest.settings == {"temperature": 0.5} and newest.finish_reason == "stop"
    assert (newest.reply, newest.reply_id) == ("answer 1", "chatcmpl-1")
    assert oldest.reply == "answer 0" and oldest.time_ms == NOW - DAY_MS
    assert [each.reply for each in live_replies(client, "tiny", since_ms=NOW - 1000)] == [
        "answer 1"
    ]
    assert [each.reply for each in live_replies(client, "tiny", most=1)] == ["answer 1"]


def test_a_trace_is_found_by_the_id_that_the_client_got(store):
    client, _, _ = store(0)
    (reply,) = live_replies(client, "tiny")
    assert trace_of(client, "tiny", reply.reply_id) == reply.trace_id
    assert trace_of(client, "tiny", "nosuch") is None


def test_a_reply_that_is_sent_again_replaces_its_trace(store, home):
    client, _, folder = store(0)
    (before,) = live_replies(client, "tiny")
    again = {"time_ms": NOW, "duration_ms": 7, "request": {"messages": before.messages}}
    reply = {"id": "r", "model": before.model, "content": "b", "finish_reason": "stop"}
    (folder / "0.json").write_text(json.dumps(again | {"reply": reply | {"usage": None}}))
    store_logged(client, Workspace(home), "tiny", folder)
    (after,) = live_replies(client, "tiny")
    assert after.trace_id == before.trace_id


def test_old_replies_are_deleted(store):
    client, _, _ = store(40, 20, 0)
    assert delete_older(client, "tiny", 30) == 1
    assert [each.reply for each in live_replies(client, "tiny")] == ["answer 2", "answer 1"]


def test_a_reply_that_is_refused_is_put_aside_and_the_others_are_stored(store, home, caplog):
    client, _, folder = store()
    (folder / "00.json").write_text('{"reply": ')
    (folder / "01.json").write_text('{"reply": {}}')
    client, count, _ = store(0)
    assert count == 1
    assert [each.reply for each in live_replies(client, "tiny")] == ["answer 0"]
    refused = folder / "refused"
    assert sorted(file.name for file in refused.iterdir()) == ["00.json", "01.json"]
    (warning,) = caplog.messages
    assert f"2 logged replies are in {refused}" in warning
    os.utime(refused / "00.json", (0, 0))
    delete_refused(folder, 30)
    assert [file.name for file in refused.iterdir()] == ["01.json"]


def test_at_the_end_the_rest_is_stored_and_what_is_old_is_deleted(store, home):
    client, _, folder = store(40)
    (folder / "9.json").write_text(json.dumps(record(9, 0)))
    store_rest(client, Workspace(home), "tiny", folder, 30)
    assert [each.reply for each in live_replies(client, "tiny")] == ["answer 9"]
    assert not list(folder.glob("[!.]*.json"))


def test_a_name_without_live_replies_has_none(store):
    client, count, _ = store()
    assert count == 0 and list(live_replies(client, "tiny")) == []
    assert delete_older(client, "tiny", 1) == 0
    assert client.get_experiment_by_name(experiment_name("tiny")) is None
