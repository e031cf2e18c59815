"""The references that keep a run directory: versions, aliases, ledger entries, runs, sweeps.

A run keeps its directories while it goes on and until MLflow has its record. A store that does not
answer is taken to refer to everything recorded there.
"""

import contextlib
import json
import re
from collections.abc import Callable, Container, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from pydantic import ValidationError

from rlhf_core.errors import RLHFError
from rlhf_core.rundir import StageSpec
from tasks.iterate.iteration import Iteration
from tasks.records.run_record import Record, Registration, pending, records
from tasks.records.workspace import Workspace
from tasks.sweeps.sweep import Sweep
from tasks.tracking.address import redacted
from tasks.tracking.client import brief, connect
from tasks.tracking.pages import model_versions, registered_models

MADE = "a registered version"
NAMED = "a registered version or ledger entry that names it"
REUSED = "a registered version whose bytes it reused"
RUN_DIR = re.compile(r"[a-z]+(?:-[a-z]+)*-[0-9a-f]{12}")
_DIGEST = re.compile(r"\b[0-9a-f]{64}\b")
_RUN_ID = re.compile(r"\b[0-9a-f]{32}\b")
_IN_PATH = re.compile(rf"/runs/({RUN_DIR.pattern})(?:/|$)")


@dataclass
class References:
    """The run directories and records that are still needed."""

    runs: dict[str, str] = field(default_factory=dict)  # directory's name -> first reason found
    records: dict[str, str] = field(default_factory=dict)  # id -> reason
    digests: set[str] = field(default_factory=set)  # of every version and ledger entry

    def add(self, names: Iterable[str], reason: str) -> None:
        """Add run directories; one that is there keeps its first reason."""
        for name in names:
            self.runs.setdefault(name, reason)


@dataclass
class RegisteredModels:
    """The registered models of one MLflow store, and what tags and sources of versions mention."""

    models: set[str] = field(default_factory=set)  # names of the registered models
    digests: set[str] = field(default_factory=set)
    run_ids: set[str] = field(default_factory=set)
    run_dirs: set[str] = field(default_factory=set)


def gather(
    workspace: Workspace, say: Callable[[str], None], leaving: Container[str] = ()
) -> References:
    """Return every reference to run directories and records.

    say: prints which other store does not answer, so that its runs are kept. leaving: ids of
    records that keep no run directory. Raises RLHFError when the workspace's own MLflow store does
    not answer.
    """
    found = References()
    known = [Record.model_validate(values) for values in records(workspace)]
    stores: dict[str, RegisteredModels | None] = {
        workspace.tracking_uri: _read_own_store(workspace.tracking_uri)
    }
    for record in known:
        if record.tracking_uri not in stores:
            stores[record.tracking_uri] = _read_other_store(record.tracking_uri, say)
    for store in filter(None, stores.values()):
        found.digests |= store.digests
        found.add(store.run_dirs, MADE)
    waiting = {file.stem for file in pending(workspace)}
    sweeps = _unfinished_sweeps(workspace) | _unfinished_iterations(workspace)
    for record in known:
        if reason := _why_needed(record, stores[record.tracking_uri], waiting, sweeps):
            found.records[record.id] = reason
            if record.id in leaving:
                continue
            found.add((stage.run_dir.name for stage in record.stages), reason)
            found.add(_mentioned(record), reason)
    return found


def inputs_of(run_dir: Path) -> set[str]:
    """Return the names of the run directories that a run directory took its inputs from."""
    file = run_dir / "spec.json"
    if not file.exists():
        return set()
    try:
        spec: StageSpec = StageSpec.model_validate_json(file.read_text(encoding="utf-8"))
    except ValidationError:  # a spec of another version: take every path in it
        return set(_IN_PATH.findall(file.read_text(encoding="utf-8")))
    return {name for item in spec.inputs.values() for name in _IN_PATH.findall(str(item.path))}


def open_runs(workspace: Workspace) -> set[str]:
    """Return the run directories' names of pipelines that run now or wait to be forwarded."""
    found = set()
    for file in pending(workspace):
        with contextlib.suppress(FileNotFoundError):  # forwarded meanwhile
            record = Record.model_validate_json(file.read_text(encoding="utf-8"))
            found |= {stage.run_dir.name for stage in record.stages}
    return found


def _why_needed(
    record: Record, store: RegisteredModels | None, waiting: set[str], sweeps: set[str]
) -> str | None:
    if record.id in waiting or record.status == "RUNNING":
        return "a run that goes on, or that MLflow has not in full"
    if record.sweep and record.sweep.id in sweeps:
        return "a sweep or loop that is not complete"
    if store is None:
        return f"a run recorded at {redacted(record.tracking_uri)}, which does not answer"
    lost = [
        item.model
        for item in record.registrations
        if item.version and item.model not in store.models
    ]
    if lost:
        return f"a registered version of {lost[0]}, which MLflow does not hold any more"
    ids = {record.run_id, *(stage.run_id for stage in record.stages)}
    registered = [item for item in record.registrations if item.artifact.digest in store.digests]
    if any(_is_made_by(record, item) for item in registered):
        return MADE
    if ids & store.run_ids:
        return NAMED
    return REUSED if registered else None


def _is_made_by(record: Record, registered: Registration) -> bool:
    """Return False where the run found the stage's result that an earlier run had made.

    A run that goes on finds its own: its stage had begun before the result was there.
    """
    stage = record.stage(registered.stage)
    if stage is None or not stage.cached:
        return True
    result = stage.run_dir / "result.json"
    return not result.is_file() or result.stat().st_mtime * 1000 >= stage.started


def _mentioned(record: Record) -> set[str]:
    return {
        name for item in record.registrations for name in _IN_PATH.findall(str(item.artifact.path))
    }


def _unfinished_sweeps(workspace: Workspace) -> set[str]:
    found = set()
    for file in (workspace.home / "sweeps").glob("*/sweep.json"):
        try:
            sweep = Sweep.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError:
            found.add(file.parent.name)
            continue
        if len(sweep.rows) < len(sweep.points) or any(
            row.state not in ("finished", "refused") for row in sweep.rows
        ):
            found.add(sweep.id)
    return found


def _unfinished_iterations(workspace: Workspace) -> set[str]:
    found = set()
    for file in workspace.iterations.glob("*/iteration.json"):
        try:
            known = Iteration.model_validate_json(file.read_text(encoding="utf-8"))
        except ValidationError:
            found.add(file.parent.name)
            continue
        if len(known.rounds) <= known.rounds_wanted:
            found.add(known.id)
    return found


def _read_own_store(uri: str) -> RegisteredModels:
    """Read the workspace's own store. Raises RLHFError when it does not answer."""
    try:
        return _read_store(uri)
    except Exception as error:
        raise RLHFError(
            f"MLflow at {redacted(uri)} does not answer ({brief(error)}), so nobody can say which"
            " runs its registered versions need. Nothing was removed. Start it, or set"
            " MLFLOW_TRACKING_URI, and try again."
        ) from error


def _read_other_store(uri: str, say: Callable[[str], None]) -> RegisteredModels | None:
    """Read the store of a run recorded elsewhere; None, and a message, when it does not answer."""
    try:
        return _read_store(uri)
    except Exception as error:
        say(
            f"MLflow at {redacted(uri)} does not answer ({brief(error)}): the runs recorded there"
            " are kept"
        )
        return None


def _read_store(uri: str) -> RegisteredModels:
    client, found = connect(uri), RegisteredModels()
    for model in registered_models(client):
        found.models.add(model.name)
        for version in model_versions(client, f"name = '{model.name}'"):
            text = json.dumps([version.source, version.run_id, dict(version.tags)])
            found.digests |= set(_DIGEST.findall(text))
            found.run_ids |= set(_RUN_ID.findall(text))
            found.run_dirs |= set(_IN_PATH.findall(version.source or ""))
    return found
