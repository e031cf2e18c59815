"""People's feedback on a trace is told from that of judges and scorers."""

import json
import time

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from tasks.live.replies import LiveReply, live_replies, store_logged
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect


@pytest.fixture
def trace(home):
    """A kept reply's trace in a real store."""
    workspace, folder = Workspace(home), home / "replies"
    folder.mkdir()
    reply = {"id": "chatcmpl-1", "model": "tiny-policy-2", "content": "Sand it first."}
    record = {
        "time_ms": int(1000 * time.time()),
        "duration_ms": 7,
        "request": {"messages": [{"role": "user", "content": "How do I paint a door?"}]},
        "reply": reply | {"finish_reason": "stop", "usage": None},
    }
    (folder / "1.json").write_text(json.dumps(record))
    client = connect(workspace.tracking_uri)
    store_logged(client, workspace, "tiny", folder)
    return client


def test_judges_and_scorers_and_what_was_taken_back_are_no_persons_feedback(trace):
    def read() -> LiveReply:
        (found,) = live_replies(trace, "tiny")
        return found

    identity = read().trace_id
    for kind, author, value in (
        ("HUMAN", "ann", True),
        ("LLM_JUDGE", "gpt", False),
        ("CODE", "polite", False),
    ):
        source = AssessmentSource(kind, author)
        mlflow.log_feedback(trace_id=identity, name="thumb", value=value, source=source)
    mlflow.log_feedback(trace_id=identity, name="thumb", value="up")  # without a source
    old = mlflow.log_feedback(
        trace_id=identity, name="thumb", value=False, source=AssessmentSource("HUMAN", "bob")
    )
    mlflow.override_feedback(trace_id=identity, assessment_id=old.assessment_id, value=True)
    found = {(each.author, each.value) for each in read().feedback}
    assert ("ann", True) in found and ("", "up") in found
    assert not found & {("gpt", False), ("polite", False), ("bob", False)}
    assert all(each.time_ms for each in read().feedback)
