"""The pipeline runs of a store with their parameters and final metrics, a thousand in seconds.

MLflow's own search builds an object for each parameter and metric, about 600 of them per run. A
SQLite store is therefore read by its tables, which MLflow has had since 1.0; a server is asked.
Both give the same rows.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tasks.analysis.mlflow_runs import PIPELINES, search
from tasks.tracking.address import database_file
from tasks.tracking.client import KEY, page

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

_RUNS = """
SELECT r.run_uuid, r.name, r.status, r.experiment_id, r.start_time, r.end_time, n.value
FROM runs r
JOIN tags s ON s.run_uuid = r.run_uuid AND s.key = 'stage' AND s.value = 'pipeline'
JOIN tags k ON k.run_uuid = r.run_uuid AND k.key = ?
LEFT JOIN tags n ON n.run_uuid = r.run_uuid AND n.key = 'recipe'
WHERE r.lifecycle_stage = 'active'
ORDER BY r.start_time DESC, r.run_uuid
"""
_OF_PIPELINES = "run_uuid IN (SELECT run_uuid FROM tags WHERE key = 'stage' AND value = 'pipeline')"
_PARAMS = f"SELECT run_uuid, key, value FROM params WHERE {_OF_PIPELINES}"
_METRICS = (
    "SELECT run_uuid, key, CASE is_nan WHEN 1 THEN NULL ELSE value END FROM latest_metrics"
    f" WHERE {_OF_PIPELINES}"
)


@dataclass(frozen=True)
class RunRow:
    """One pipeline run: what it was given, and the final metrics of its stages.

    params: the resolved recipe, flat, as text. metrics: also '<metric>.low', '.high' and '.n'.
    """

    run_id: str
    name: str
    status: str
    experiment_id: str
    started: int  # ms since the epoch
    ended: int | None
    recipe: str
    params: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)

    def link(self, tracking_uri: str) -> str:
        """Return the address of its page."""
        return page(tracking_uri, self.experiment_id, self.run_id)


def run_rows(client: "MlflowClient") -> list[RunRow]:
    """Return every pipeline run of a store, the latest first."""
    file = database_file(client.tracking_uri)
    return _of_file(file) if file else [_of_run(run) for run in search(client, PIPELINES)]


def _of_run(run: "Run") -> RunRow:
    return RunRow(
        run.info.run_id,
        run.info.run_name,
        run.info.status,
        run.info.experiment_id,
        run.info.start_time,
        run.info.end_time,
        run.data.tags.get("recipe", ""),
        dict(run.data.params),
        {name: value for name, value in run.data.metrics.items() if value == value},
    )


def _of_file(file: Path) -> list[RunRow]:
    with _opened(file) as store:
        rows = {
            run_id: RunRow(run_id, name, status, str(experiment), started, ended, recipe or "")
            for run_id, name, status, experiment, started, ended, recipe in store.execute(
                _RUNS, (KEY,)
            )
        }
        for run_id, key, value in store.execute(_PARAMS):
            if run_id in rows:
                rows[run_id].params[key] = value
        for run_id, key, number in store.execute(_METRICS):
            if run_id in rows and number is not None:
                rows[run_id].metrics[key] = number
    return list(rows.values())


@contextlib.contextmanager
def _opened(file: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection that only reads."""
    with contextlib.closing(
        sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)
    ) as store:
        yield store
