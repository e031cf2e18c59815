"""A close is whole or has done nothing, once."""

import json
import os
import shutil
import threading

import pytest

from rlhf_core.errors import BadInput, GateRefused
from tasks.labels import closing
from tasks.labels.closing import CloseOptions, close
from tasks.labels.opening import Reassignment, reassign

pytestmark = pytest.mark.slow  # each opens a campaign in a real store


def read(file) -> list[dict]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def files(folder) -> dict[str, str]:
    return {str(f.relative_to(folder)): f.read_text() for f in folder.rglob("*") if f.is_file()}


@pytest.fixture
def labelled(open_campaign_of):
    made = open_campaign_of(5, "ann", "bob", overlap=1.0)
    made.answer("ann", "a", most=4)
    made.answer("bob", "a", most=4)
    return made


def test_votes_become_comparisons_and_open_pairs_leave_the_queues(labelled, tmp_path):
    out = tmp_path / "c.jsonl"
    done = close(labelled.folder, CloseOptions(out), labelled.workspace)
    rows, beside = read(out), out.with_suffix(".labels")
    assert done["comparisons"] == len(rows) == 5 - done["apart"]
    assert all(row["chosen"].startswith("So ") for row in rows)
    assert {row["strength"] for row in rows} == {2.0}
    provenance = json.loads((beside / "provenance.json").read_text())
    assert provenance["run"] == {"name": "run-1"} and provenance["authorship"] == "queue"
    assert "ann" not in {name for row in rows for name in row["annotators"]}
    from mlflow.genai.review_queues import list_review_queue_items

    for queue in labelled.campaign.queues.values():
        assert {item.status for item in list_review_queue_items(queue.queue_id)} == {"complete"}
    with pytest.raises(BadInput, match="campaign week-48 is closed"):
        reassign(labelled.folder, labelled.workspace, Reassignment(add=["cem"]))


def test_a_killed_close_is_undone_or_completed(labelled, tmp_path, monkeypatch):
    """Kill it before each file that it writes; then close again."""
    write, states = closing.write_atomically, []
    for kill_at in range(12):
        out, count = tmp_path / f"{kill_at}.jsonl", iter(range(100))

        def killed(path, text, count=count, kill_at=kill_at):
            if next(count) == kill_at:
                raise KeyboardInterrupt
            write(path, text)

        with monkeypatch.context() as patch:
            patch.setattr(closing, "write_atomically", killed)
            patch.setattr("tasks.labels.files.write_atomically", killed)
            with pytest.raises(KeyboardInterrupt):
                close(labelled.folder, CloseOptions(out), labelled.workspace)
        assert labelled.folder.closed() is None
        states.append("decided" if labelled.folder.closing.exists() else "undone")
        if states[-1] == "undone":  # nothing was written where the user looks
            assert not out.exists() and not out.with_suffix(".labels").exists()
        done = close(labelled.folder, CloseOptions(out), labelled.workspace)
        assert len(read(out)) == done["comparisons"] > 0
        assert len(read(out.with_suffix(".labels") / "votes.jsonl")) == 8
        with pytest.raises(BadInput, match="is closed"):
            close(labelled.folder, CloseOptions(out), labelled.workspace)
        shutil.rmtree(labelled.folder.closing)  # open it again for the next kill
        (labelled.folder.path / "closed.json").unlink()
    assert states == ["undone"] * 6 + ["decided"] * 6


def test_of_two_closes_at_once_one_closes(labelled, tmp_path):
    said: list[str] = []

    def closes(number: int) -> None:
        try:
            options = CloseOptions(tmp_path / f"{number}.jsonl")
            done = close(labelled.folder, options, labelled.workspace)
            said.append(os.path.basename(done["out"]))
        except BadInput as error:
            said.append(str(error))

    threads = [threading.Thread(target=closes, args=(n,)) for n in (1, 2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    written, refused = sorted(said, key=len)
    assert written in ("1.jsonl", "2.jsonl") and "week-48 is closed" in refused
    assert sorted(f.name for f in tmp_path.glob("?.jsonl")) == [written]


def test_a_close_below_the_agreement_writes_nothing(labelled, tmp_path):
    out = tmp_path / "c.jsonl"
    before = files(labelled.folder.path)
    with pytest.raises(GateRefused, match="the lower end of alpha"):
        close(labelled.folder, CloseOptions(out, min_alpha=0.5), labelled.workspace)
    assert not out.exists() and files(labelled.folder.path) == before


def test_a_file_in_the_way_is_never_overwritten(labelled, tmp_path):
    out = tmp_path / "c.jsonl"
    out.write_text("mine")
    with pytest.raises(BadInput, match="is there already"):
        close(labelled.folder, CloseOptions(out), labelled.workspace)
    assert out.read_text() == "mine"
