"""The refusals of `rlhf approve`, and what `rlhf status` and the display show, without Prefect."""

import contextlib
import io
import json
import threading
import time
from datetime import timedelta

import pytest
from recipes import tiny_recipe
from rich.console import Console

from flows.cli.models.approve import waiting_runs
from flows.display.outcome import results_table
from flows.progress.display import LiveDisplay
from rlhf_core.errors import BadInput
from tasks.approval import decisions
from tasks.approval.decisions import Answer
from tasks.records import events
from tasks.records.approval_record import ApprovalRecord
from tasks.records.run_record import Record, record_lock
from tasks.records.step_row import StepRow
from tasks.records.workspace import Workspace


@pytest.fixture
def waiting(home):
    """Return a function that makes a waiting record, locked by this process as by its run."""
    workspace, locks = Workspace(home), contextlib.ExitStack()

    def make(name: str, *, alive: bool = True) -> Record:
        asked = decisions.now()
        record = Record.new(workspace, tiny_recipe(), name)
        until = asked + timedelta(hours=1)
        record.approval = ApprovalRecord(
            evidence=f"of-{name}", run=name, asked_at=asked, until=until
        )
        record.save(workspace)
        if alive:
            assert locks.enter_context(record_lock(workspace, record.id))
        return record

    make.end_all = locks.close
    with locks:
        yield make


def test_the_command_explains_itself(rlhf):
    code, out, _ = rlhf("approve", "--help")
    assert code == 0 and " approve [OPTIONS]" in out and "default: the user's name" in out


def test_only_a_run_that_waits_can_be_approved(rlhf, home, waiting):
    assert "no run is waiting for approval" in rlhf("approve", "latest")[2]
    stopped, running = waiting("tiny-a-1", alive=False), waiting("tiny-a-2")
    plain = Record.new(Workspace(home), tiny_recipe(), "tiny-b-1")
    plain.save(Workspace(home))
    cases = {
        "tiny": "names no run",
        "20": "names 3 runs",
        "tiny-b-1": "it has asked nobody (waiting for approval: tiny-a-2)",
        "tiny-a-1": "it was stopped",
        stopped.id[:-1]: "it was stopped",
    }
    for name, says in cases.items():
        code, out, err = rlhf("approve", name)
        assert code == 2 and says in err and out == "", (name, err)
    assert decisions.find_run(Workspace(home), running.id[:-1]).name == "tiny-a-2"
    running.approval.state = "expired"
    running.save(Workspace(home))
    assert "no decision within 1 hours" in rlhf("approve", "tiny-a-2")[2]
    assert rlhf("approve", "tiny-a-2", "--by", "x" * 300)[0] == 2
    assert rlhf("approve", "tiny-a-2", "--comment", "x" * 3000)[0] == 2


def test_a_run_that_ends_before_it_takes_the_answer_leaves_nothing_decided(home, waiting):
    record = waiting("tiny-a-1")
    threading.Timer(0.5, waiting.end_all).start()
    with pytest.raises(BadInput, match="ended before it took the answer"):
        decisions.submit(Workspace(home), record, Answer(approve=True, by="Ann"))
    assert not list((home / "approvals").glob("[!.]*"))


def test_status_shows_who_waits_and_what_was_decided(rlhf, home, waiting):
    record = waiting("tiny-a-1")
    (shown,) = json.loads(rlhf("status", "--json")[1])
    assert (
        shown["state"] == "waiting for approval" and shown["approval"]["evidence"] == "of-tiny-a-1"
    )
    assert "rlhf approve tiny-a-1" in rlhf("status")[1]
    record.approval = record.approval.model_copy(
        update={"state": "rejected", "by": "Ann", "comment": "no"}
    )
    record.status, record.error = "FAILED", record.approval.sentence
    record.save(Workspace(home))
    (shown,) = json.loads(rlhf("status", "--json")[1])
    assert (shown["state"], shown["reason"]) == ("refused", "not approved by Ann: no")


def test_completion_offers_the_runs_that_wait(home, waiting):
    waiting("tiny-a-1")
    waiting("tiny-b-1", alive=False)
    assert waiting_runs("t") == ["tiny-a-1"] and waiting_runs("") == ["tiny-a-1", "latest"]


@pytest.mark.parametrize("terminal", [True, False])
def test_the_display_says_how_to_approve_and_what_was_said(terminal):
    display = LiveDisplay(
        Console(
            force_terminal=terminal, record=True, width=400, color_system=None, file=io.StringIO()
        )
    )
    row = StepRow("approval", "refused", 60.0, None, note="not approved by Ann: no")
    with display:
        display(events.ApprovalAsked("tiny-a-1", decisions.now(), None, "http://mlflow/run"))
        time.sleep(0.3)
        display(events.StepEnded(row))
    said = display.console.export_text()
    for words in (
        "rlhf approve tiny-a-1",
        "--reject --comment WHY",
        "(rlhf ui)",
        "http://mlflow/run",
        "not approved by Ann: no",
    ):
        assert words in said
    assert display.rows["approval"].row.state == "refused"
    display.console.print(results_table([row], full_links=True))
    assert "not approved by Ann: no" in display.console.export_text()
