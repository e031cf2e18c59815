"""The rows of a run, read from its record and its run directories."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from recipes import tiny_recipe

from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import StageResult
from tasks.records.approval_record import ApprovalRecord
from tasks.records.promotion_record import PromotionRecord
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace
from tasks.run_result import result_of, row_of, rows_of

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
REFUSAL = Decision.model_validate(
    {
        "stage": "sft",
        "gate": "improvement",
        "metric": "sft/heldout_improvement",
        "value": -1.0,
        "n": None,
        "interval": None,
        "bound": "more than",
        "threshold": 0.0,
        "passed": False,
        "reason": "it is worse",
    }
)


@pytest.fixture
def record(home) -> Record:
    return Record.new(Workspace.here(), tiny_recipe(), "tiny-1")


def add_stage(record: Record, name: str, *, result: dict | None, **values) -> Path:
    """Add a stage that logged two steps, and wrote a result with these metrics."""
    folder = Workspace.here().runs / name
    folder.mkdir(parents=True)
    steps = [{"step": n, "steps": 2, "metrics": {f"{name}/loss": 1.0 / n}} for n in (1, 2)]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(step) + "\n" for step in steps))
    if result is not None:
        made = StageResult(stage=name, digest="d", seconds=7.0, metrics=result)
        (folder / "result.json").write_text(made.model_dump_json())
    record.stages.append(StageRecord(stage=name, run_dir=folder, started=1000, **values))
    return folder


def test_a_stage_without_final_metrics_shows_those_of_its_last_step(record):
    add_stage(record, "prepare", result={}, status="FINISHED", ended=9000)
    add_stage(record, "sft", result={"sft/heldout_loss": 0.25}, status="FINISHED", cached=True)
    prepare, sft = rows_of(record)
    assert (prepare.metric, prepare.value, prepare.seconds) == ("prepare/loss", 0.5, 7.0)
    assert prepare.progress == (2, 2) and row_of(record, "prepare") == prepare
    assert (sft.metric, sft.value, sft.state) == ("sft/heldout_loss", 0.25, "cached")


def test_a_failed_stage_shows_how_far_it_came_and_its_message_without_the_log(record):
    error = "stage sft ended with exit code 1; its log is /x, the last lines are:\n  boom"
    folder = add_stage(record, "sft", result=None, status="FAILED", ended=4000, error=error)
    (row,) = rows_of(record)
    assert (row.state, row.seconds, row.value) == ("failed", 3.0, 0.5)
    assert row.error == "stage sft ended with exit code 1" and row.run_dir == folder
    assert row.reason == error


def test_a_step_that_has_not_begun_has_no_row(record):
    assert rows_of(record) == []
    for name in ("sft", "approval", "promote"):
        with pytest.raises(KeyError, match=name):
            row_of(record, name)


def test_a_refusal_is_no_error_of_the_stage(record):
    values = {"status": "FAILED", "error": "it is worse", "decisions": [REFUSAL]}
    add_stage(record, "sft", result={"sft/heldout_loss": 2.0}, **values)
    (row,) = rows_of(record)
    assert (row.state, row.error, row.verdict) == ("refused", "", "refused")


def test_an_answer_to_another_run_takes_no_time_and_names_that_run(record):
    asked = ApprovalRecord(
        evidence="e",
        run="tiny-0",
        asked_at=NOW,
        until=NOW + timedelta(hours=1),
        state="approved",
        by="Ann",
        decided_at=NOW + timedelta(seconds=90),
    )
    record.approval = asked
    (row,) = rows_of(record)
    assert (row.name, row.state, row.seconds) == ("approval", "done", 0.0)
    assert "approved by Ann" in row.note and "tiny-0" in row.note
    record.approval = asked.model_copy(update={"run": "tiny-1"})
    assert rows_of(record)[0].seconds == 90.0


def test_the_promotion_is_the_last_row_and_part_of_the_result(record):
    values = {"model": "tiny-policy", "version": "3", "promoted": True, "reason": "it won"}
    record.promotion = PromotionRecord.model_validate(values | {"seconds": 4.5})
    result = result_of(record, None)
    assert [(row.name, row.state, row.seconds) for row in result.rows] == [("promote", "done", 4.5)]
    assert result.promotion.version == "3" and result.promotion.promoted
