"""The record of the stopped stages that a stage goes on from, where they had other ranks."""

import json
from pathlib import Path

CONTINUED = "continued.json"  # in a run directory


def continued_from(run_dir: Path) -> dict[str, str]:
    """Return the checkpoints that a stage began with, as one value of its environment.

    Nothing for a stage that began by itself.
    """
    found = _read(run_dir)
    parts = [f"{one['checkpoint']} of {one['run_dir']}, {one['ranks']} ranks" for one in found]
    return {"continued_from": "; ".join(parts)} if found else {}


def stopped_before(run_dir: Path) -> list[str]:
    """Return the names of the other run directories that a stage went on from, each once."""
    names = dict.fromkeys(one["run_dir"] for one in _read(run_dir))
    return [name for name in names if name != run_dir.name]


def _read(run_dir: Path) -> list[dict]:
    file = run_dir / CONTINUED
    return json.loads(file.read_text(encoding="utf-8")) if file.exists() else []
