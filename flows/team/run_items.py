"""The runs on the team's page: those of `rlhf status`, and older ones that have not ended."""

from datetime import datetime
from typing import Any

from flows.display.status import WAITING, shown
from flows.report.text import duration
from flows.team.content import MOST_RUNS, RunItem, StageItem, Tone
from tasks.records.run_record import Record, records
from tasks.records.workspace import UI_URL, Workspace

TONES: dict[str, Tone] = {
    "finished": "good",
    "refused": "bad",
    "failed": "bad",
    "killed": "bad",
    "interrupted": "warn",
    WAITING: "warn",
}


def latest_and_running(workspace: Workspace, mlflow: str) -> tuple[list[RunItem], list[RunItem]]:
    """Return the latest runs and those that have not ended, newest first.

    mlflow: the address at which the workspace's own store is served.
    """
    known = records(workspace)[::-1]
    late, early = known[:MOST_RUNS], known[MOST_RUNS:]
    open_ones = [values for values in early if values["status"] == "RUNNING"]
    items = [_item(workspace, values, mlflow) for values in (*late, *open_ones)]
    at_work = [item for item in items if item.state in ("running", WAITING)]
    return items[: len(late)], at_work


def _item(workspace: Workspace, values: dict, mlflow: str) -> RunItem:
    run = shown(workspace, Record.model_validate(values))
    link = run["link"] or ""
    return RunItem(
        name=run["name"],
        href=link.replace(UI_URL, mlflow, 1) if link.startswith(f"{UI_URL}/") else link,
        state=run["state"],
        tone=TONES.get(run["state"], "plain"),
        started=datetime.fromisoformat(run["started"]),
        took=duration(run["seconds"]) if run["seconds"] is not None else "",
        stages=tuple(_stage(stage) for stage in run["stages"]),
        note=_note(run),
    )


def _stage(stage: dict[str, Any]) -> StageItem:
    verdict = stage["verdict"] if stage["verdict"] in ("refused", "overridden", "warning") else ""
    return StageItem(stage["stage"], stage["state"], stage["progress"] or verdict)


def _note(run: dict[str, Any]) -> str:
    if run["reason"]:
        note = run["reason"].splitlines()[0]
    elif run["state"] == WAITING:
        note = run["approval"]["sentence"]
    else:
        note = str(run["promotion"]["reason"]) if run["promotion"] else ""
    if not run["in_mlflow"] and run["state"] not in ("running", WAITING):
        note += f"{' ' if note else ''}Not all in MLflow yet: rlhf sync."
    return note
