"""Run directories, records and versions of any age, and their removal."""

import os
import time
from collections.abc import Iterable
from pathlib import Path

from mlflow import MlflowClient

from rlhf_core.digest import digest_path
from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.cleanup import retention
from tasks.records.run_record import Record, StageRecord
from tasks.records.workspace import Workspace

OLD = 100.0  # days
LIMIT = 30.0


def aged(path: Path, days: float = OLD) -> Path:
    """Set the times of a folder and of everything in it to `days` ago."""
    when = time.time() - days * 86400
    for folder, folders, files in os.walk(path, topdown=False):
        for name in [*folders, *files]:
            os.utime(Path(folder) / name, (when, when), follow_symlinks=False)
    os.utime(path, (when, when))
    return path


def run_dir(
    workspace: Workspace,
    stage: str,
    number: int,
    *,
    inputs: Iterable[Path] = (),
    state: str = "finished",
    days: float = OLD,
) -> Path:
    """Make a run directory as a stage leaves it; its bytes depend on its number."""
    path = workspace.runs / f"{stage}-{number:012x}"
    (path / "model").mkdir(parents=True)
    (path / "model" / "model.safetensors").write_text(f"weights {number}")
    (path / ".lock").touch()
    given = {
        other.name: Artifact(path=other / "model", digest=digest_path(other / "model"))
        for other in inputs
    }
    spec: StageSpec = StageSpec(stage=stage, seed=1, config={}, inputs=given, code="c")
    (path / "spec.json").write_text(spec.model_dump_json())
    if state == "finished":
        model = Artifact(path=Path("model"), digest=digest_path(path / "model"))
        result = StageResult(stage=stage, digest=spec.digest, outputs={"model": model}, seconds=1.0)
        (path / "result.json").write_text(result.model_dump_json())
    elif state == "refused":
        (path / "failure.json").write_text('{"error": "Diverged", "message": "m"}')
    else:
        (path / "checkpoints").mkdir()
    return aged(path, days)


def record(
    workspace: Workspace,
    number: int,
    dirs: list[Path],
    *,
    sent: bool = True,
    days: float = OLD,
    **changes: object,
) -> Record:
    """Write the record of a pipeline run through these directories."""
    when = int((time.time() - days * 86400) * 1000)
    stages = [
        StageRecord(
            stage=path.name.split("-")[0], run_dir=path, started=when, ended=when, status="FINISHED"
        )
        for path in dirs
    ]
    values = {
        "id": f"20260101-000000-{number:06x}",
        "name": f"tiny-0-{number}",
        "recipe": {"name": "tiny"},
        "commit": "c",
        "dirty": False,
        "tracking_uri": workspace.tracking_uri,
        "status": "FINISHED",
        "started": when,
        "ended": when,
        "stages": stages,
        "closed": sent,
        "opened": sent,
        "run_id": f"{number:032x}",
    }
    made = Record(**values | changes)
    folder = workspace.outbox / "sent" if sent else workspace.outbox
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{made.id}.json").write_text(made.model_dump_json())
    return made


def version(client: MlflowClient, model: str, source: str = "/elsewhere/model", **tags: str) -> str:
    """Register a version with these tags and return its number."""
    if not client.search_registered_models(f"name = '{model}'"):
        client.create_registered_model(model)
    return client.create_model_version(model, source, tags=tags).version


def collect(workspace: Workspace, days: float = LIMIT) -> set[str]:
    """Remove what is old and unused, and return the names of what was removed."""
    found = retention.plan(workspace, days)
    before = {item.path for item in found.remove}
    gone = {item.path for item in retention.remove(workspace, found, days)}
    assert all(not path.exists() for path in gone) and gone <= before
    assert all(item.path.exists() for item in found.keep)
    assert not list(workspace.runs.glob(".gc-*"))
    return {path.name for path in gone}
