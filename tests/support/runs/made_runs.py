"""Pipeline runs in a SQLite store, written into its tables: a thousand of them in a second."""

import contextlib
import random
import sqlite3
from dataclasses import dataclass, field
from pathlib import Path

from tasks.tracking.client import KEY

FILLING_PARAMS, FILLING_METRICS = 350, 300  # of a real pipeline run


@dataclass
class MadeRun:
    """A pipeline run as its parameters and final metrics in MLflow."""

    name: str
    metrics: dict[str, float]
    params: dict[str, str] = field(default_factory=dict)
    recipe: str = "tiny"
    status: str = "FINISHED"
    start: int = 0


def write_runs(file: Path, runs: list[MadeRun], *, filling: bool = False) -> list[str]:
    """Write the runs into MLflow's tables, each later than the one before, and return their ids.

    filling: with as many further parameters and metrics as a real run has.
    """
    with contextlib.closing(sqlite3.connect(file)) as store, store:
        (experiment,) = store.execute("SELECT experiment_id FROM experiments LIMIT 1").fetchone()
        ids = [
            f"{random.Random(f'{place} {run.name}').getrandbits(128):032x}"
            for place, run in enumerate(runs)
        ]
        rows = [
            (i, run.name, run.status, run.start or place, run.start or place, experiment)
            for place, (i, run) in enumerate(zip(ids, runs, strict=True), 1)
        ]
        store.executemany(
            "INSERT INTO runs (run_uuid, name, status, start_time, end_time, experiment_id,"
            " lifecycle_stage) VALUES (?, ?, ?, ?, ?, ?, 'active')",
            rows,
        )
        more_params = {f"filling.p{place}": "0.1" for place in range(FILLING_PARAMS * filling)}
        more_metrics = {f"filling/m{place}": 0.5 for place in range(FILLING_METRICS * filling)}
        for run_id, run in zip(ids, runs, strict=True):
            tags = {"stage": "pipeline", "recipe": run.recipe, KEY: run_id}
            for table, values in (("tags", tags), ("params", more_params | run.params)):
                store.executemany(
                    f"INSERT INTO {table} (run_uuid, key, value) VALUES (?, ?, ?)",
                    [(run_id, key, value) for key, value in values.items()],
                )
            store.executemany(
                "INSERT INTO latest_metrics (run_uuid, key, value, timestamp, step, is_nan)"
                " VALUES (?, ?, ?, 0, 0, 0)",
                [(run_id, key, value) for key, value in (more_metrics | run.metrics).items()],
            )
    return ids


def measured(metric: str, value: float, half: float, n: int = 500) -> dict[str, float]:
    """Return a metric with its interval and sample size, as a pipeline run has them."""
    return {
        metric: value,
        f"{metric}.low": value - half,
        f"{metric}.high": value + half,
        f"{metric}.n": n,
    }
