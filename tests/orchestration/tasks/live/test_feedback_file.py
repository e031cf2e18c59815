"""The file of thumbs: new, whole, with its provenance, and read by `data.feedback`."""

import json
import time

import mlflow
import pytest
from mlflow.entities import AssessmentSource

from rlhf_core.config import Source
from rlhf_core.data.read import read_source
from rlhf_core.data.table import build_table
from tasks.live.replies import live_replies, store_logged
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect


@pytest.fixture
def with_thumbs(home):
    """Keep three replies of a live model, and rate the first two."""
    workspace, folder = Workspace(home), home / "replies"
    folder.mkdir()
    for number in range(3):
        reply = {"id": f"chatcmpl-{number}", "model": "tiny-policy-2", "content": f"So {number}."}
        record = {
            "time_ms": int(1000 * time.time()) + number,
            "duration_ms": 7,
            "request": {"messages": [{"role": "user", "content": f"How is {number}?"}]},
            "reply": reply | {"finish_reason": "stop", "usage": None},
        }
        (folder / f"{number}.json").write_text(json.dumps(record))
    client = connect(workspace.tracking_uri)
    store_logged(client, workspace, "tiny", folder)
    traces = [reply.trace_id for reply in live_replies(client, "tiny", oldest_first=True)]
    for trace, value in zip(traces, (True, False), strict=False):
        source = AssessmentSource("HUMAN", "ann")
        mlflow.log_feedback(trace_id=trace, name="thumb", value=value, source=source)


def test_the_rows_are_feedback_and_where_they_come_from_is_beside_them(rlhf, with_thumbs, tmp_path):
    out = tmp_path / "thumbs.jsonl"
    code, said, _ = rlhf("feedback", "export", "tiny", "--out", str(out))
    assert code == 0 and "2 rows" in said and "1 up and 1 down, of 3 kept replies" in said
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert [(row["completion"], row["label"]) for row in rows] == [
        ("So 0.", True),
        ("So 1.", False),
    ]
    table = build_table(read_source("feedback", Source(path=str(out)), out), "feedback", {})
    assert [entry.rule for entry in table.entries] == [None, None]
    known = json.loads((tmp_path / "thumbs.provenance.json").read_text(encoding="utf-8"))
    assert (known["experiment"], known["feedback"]) == ("tiny-live", "thumb")
    assert (known["rows"], known["up"], known["versions"]) == (2, 1, {"2": 2})
    assert out.stat().st_mode & 0o777 == 0o600
    assert sorted(file.name for file in tmp_path.glob(".*")) == []
    code, _, err = rlhf("feedback", "export", "tiny", "--out", str(out))
    assert code == 2 and "is there already" in err
    assert rows == [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["tiny", "--out", "thumbs.csv"], "expected a name that ends in .jsonl"),
        (["tiny", "--out", "nosuch/thumbs.jsonl"], "there is no folder nosuch"),
        (["tiny", "--out", "thumbs.jsonl"], "no reply of tiny is kept in MLflow"),
    ],
)
def test_bad_input_is_one_message_and_no_file(rlhf, tmp_path, monkeypatch, words, says):
    monkeypatch.chdir(tmp_path)
    code, _, err = rlhf("feedback", "export", *words)
    assert code == 2 and says in err and not list(tmp_path.glob("thumbs*"))
