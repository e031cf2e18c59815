"""The latest pipeline runs of this workspace, from their records; MLflow is not needed."""

from datetime import datetime

from rich.table import Table
from rich.text import Text

from flows.report.text import duration
from rlhf_core.gates.decide import refused
from rlhf_core.rundir import new_lines
from tasks.records.run_record import Record, StageRecord, now, record_lock, records
from tasks.records.workspace import Workspace

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
        _run(workspace, Record.model_validate(record))
        for record in reversed(records(workspace)[-limit:])
    ]


def _run(workspace: Workspace, record: Record) -> dict:
    alive = record.status == "RUNNING" and _is_running(workspace, record.id)
    approval = record.approval
    is_refused = bool(_refusal(record)) or (
        approval is not None and approval.state in ("rejected", "expired")
    )
    return {
        "name": record.name,
        "state": WAITING
        if alive and record.is_waiting
        else _state(record.status, alive, is_refused),
        "started": (
            datetime.fromtimestamp(record.started / 1000).astimezone().isoformat(timespec="seconds")
        ),
        "seconds": (
            ((record.ended or now()) - record.started) / 1000 if record.ended or alive else None
        ),
        "reason": _refusal(record) or record.error,
        "approval": (
            approval.model_dump(mode="json") | {"sentence": approval.sentence} if approval else None
        ),
        "promotion": record.promotion.model_dump(mode="json") if record.promotion else None,
        "in_mlflow": record.closed,
        "mlflow_run": record.run_id,
        "stages": [_stage(stage, alive) for stage in record.stages],
    }


def _is_running(workspace: Workspace, record_id: str) -> bool:
    with record_lock(workspace, record_id) as free:
        return not free


def _state(status: str, alive: bool, refused: bool) -> str:
    """Return the state to show.

    It is finished, running, interrupted (no process holds the run), refused, failed or killed.
    """
    if status == "RUNNING":
        return "running" if alive else "interrupted"
    return "refused" if refused else status.lower()


def _refusal(record: Record) -> str | None:
    reasons = [decision.reason for stage in record.stages for decision in refused(stage.decisions)]
    return reasons[0] if reasons else None


def _stage(stage: StageRecord, alive: bool) -> dict:
    progress = None
    if stage.status == "RUNNING" and (lines := new_lines(stage.run_dir / "metrics.jsonl", 0)[0]):
        progress = f"{lines[-1]['step']}/{lines[-1]['steps']}"
    return {
        "stage": stage.stage,
        "state": _state(stage.status, alive, bool(refused(stage.decisions))),
        "cached": stage.cached,
        "progress": progress,
        "verdict": stage.verdict,
        "error": stage.error,
        "run_dir": str(stage.run_dir),
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
    return text
