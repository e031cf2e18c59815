"""The latest pipeline runs of this workspace, from their records; MLflow is not needed."""

import os
from datetime import datetime

from rich.table import Table
from rich.text import Text

from flows.report.text import duration
from rlhf_core.gates.decide import refused
from tasks.mirror.marks import not_mirrored
from tasks.mirror.remote import VARIABLE
from tasks.records.run_record import Record, now, record_lock, records
from tasks.records.step_row import StepRow
from tasks.records.workspace import Workspace
from tasks.run_result import rows_of
from tasks.tracking.client import link

WAITING = "waiting for approval"
COLORS = {
    "refused": "red",
    "failed": "red",
    "interrupted": "yellow",
    WAITING: "yellow",
    "running": "cyan",
    "finished": "green",
}


def recent(limit: int) -> list[dict]:
    """Return the latest `limit` runs, newest first, as JSON values."""
    workspace = Workspace.here()
    return [
        shown(workspace, Record.model_validate(record))
        for record in reversed(records(workspace)[-limit:])
    ]


def shown(workspace: Workspace, record: Record) -> dict:
    """Return a run as JSON values, as `rlhf status --json` prints it."""
    alive = record.status == "RUNNING" and _is_running(workspace, record.id)
    approval, rows = record.approval, rows_of(record)
    return {
        "name": record.name,
        "state": _run_state(record, rows, alive),
        "started": (
            datetime.fromtimestamp(record.started / 1000).astimezone().isoformat(timespec="seconds")
        ),
        "seconds": (
            ((record.ended or now()) - record.started) / 1000 if record.ended or alive else None
        ),
        "reason": next((d.reason for d in refused(record.decisions)), record.error),
        "approval": (
            approval.model_dump(mode="json") | {"sentence": approval.sentence} if approval else None
        ),
        "promotion": record.promotion.model_dump(mode="json") if record.promotion else None,
        "in_mlflow": record.closed,
        "mlflow_run": record.run_id,
        "not_mirrored": _not_mirrored(record),
        "link": link(record, record.run_id),
        "stages": [_stage(row, alive) for row in rows if row.run_dir],
    }


def _not_mirrored(record: Record) -> list[str]:
    """Return the finished stages that the remote lacks; none where there is no remote."""
    if not (address := os.environ.get(VARIABLE, "").strip().rstrip("/")):
        return []
    missing = not_mirrored([stage.run_dir for stage in record.stages], address)
    return [stage.stage for stage in record.stages if stage.run_dir in missing]


def run_state(workspace: Workspace, record: Record) -> str:
    """Return the state of a run as `rlhf status` shows it."""
    alive = record.status == "RUNNING" and _is_running(workspace, record.id)
    return _run_state(record, rows_of(record), alive)


def _is_running(workspace: Workspace, record_id: str) -> bool:
    with record_lock(workspace, record_id) as free:
        return not free


def _run_state(record: Record, rows: list[StepRow], alive: bool) -> str:
    """Return the state to show.

    It is finished, running, waiting for approval, interrupted (no process holds the run), refused,
    failed or killed.
    """
    if record.status == "RUNNING":
        return (WAITING if record.is_waiting else "running") if alive else "interrupted"
    is_refused = any(row.state == "refused" for row in rows)
    return "refused" if is_refused else record.status.lower()


def _stage(row: StepRow, alive: bool) -> dict:
    has_finished, is_running = row.state in ("done", "cached"), row.state == "running"
    return {
        "stage": row.name,
        "state": "finished"
        if has_finished
        else "interrupted"
        if is_running and not alive
        else row.state,
        "cached": row.cached,
        "progress": "{}/{}".format(*row.progress) if is_running and row.progress else None,
        "verdict": row.verdict or ("no gate" if has_finished else row.state),
        "error": row.reason or None,
        "run_dir": str(row.run_dir),
    }


def status_table(runs: list[dict]) -> Table:
    """Return one row per run: its stages in order, each in the colour of its state."""
    table = Table(title="Latest runs", title_justify="left")
    for column in ("run", "started", "took", "state", "stages"):
        table.add_column(column, no_wrap=column in ("run", "took", "state"))
    for run in runs:
        took = duration(run["seconds"]) if run["seconds"] is not None else "-"
        state = Text(run["state"], style=COLORS.get(run["state"], ""))
        table.add_row(run["name"], run["started"][:16].replace("T", " "), took, state, _stages(run))
    return table


def _stages(run: dict) -> Text:
    text = Text()
    for stage in run["stages"]:
        note = stage["progress"] or (
            stage["verdict"] if stage["verdict"] in ("refused", "overridden", "warning") else ""
        )
        text.append(stage["stage"], style=COLORS.get(stage["state"], ""))
        text.append(f" ({note}) " if note else " ")
    if run["reason"]:
        text.append("\n" + run["reason"].splitlines()[0], style="red")
    elif run["state"] == WAITING:
        text.append(
            f"\n{run['approval']['sentence']}: rlhf approve {run['name']} [--reject --comment WHY]",
            style="yellow",
        )
    elif run["promotion"]:
        text.append("\n" + str(run["promotion"]["reason"]))
    if not run["in_mlflow"] and run["state"] not in ("running", WAITING):
        text.append("\nnot all in MLflow yet: rlhf sync", style="yellow")
    if run["not_mirrored"] and run["state"] not in ("running", WAITING):
        missing = ", ".join(run["not_mirrored"])
        text.append(f"\nnot in {VARIABLE} yet: {missing}: rlhf sync", style="yellow")
    return text
