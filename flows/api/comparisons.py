"""Compare runs, and trace models and data."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows.api.arguments import require_text, run_name
from flows.api.run_view import Run
from flows.api.session import tracking_client
from rlhf_core.errors import ConfigError

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun
    from pandas import DataFrame

    from tasks.analysis.comparison import Comparison
    from tasks.analysis.lineage import Lineage

FOLDER = "comparisons"  # of a run's artifacts
SHOWN_SAMPLES = 20  # prompts with replies in a notebook
FRAME = '<iframe srcdoc="{}" style="width:100%; height:700px; border:0" title="{}"></iframe>'


@dataclass(frozen=True)
class RunComparison:
    """Runs compared with the first one. In a notebook it shows itself as `rlhf compare`'s page."""

    result: "Comparison"
    client: "MlflowClient" = field(repr=False)

    def __repr__(self) -> str:
        return f"<RunComparison {' vs '.join(self.names)}>"

    def _repr_html_(self) -> str:
        """Return the page in a frame of its own, so that its style leaves the notebook alone."""
        from markupsafe import escape

        from flows.report.comparison import comparison_page

        samples = self.result.samples[:SHOWN_SAMPLES]
        page = comparison_page(replace(self.result, samples=samples))
        return FRAME.format(escape(str(page)), escape(" vs ".join(self.names)))

    @property
    def names(self) -> list[str]:
        """The names of the runs, the baseline first."""
        return self.result.names

    @property
    def metrics(self) -> "DataFrame":
        """A row per metric and run: value, interval, difference from the baseline, verdict."""
        import pandas

        rows = [
            _metric_row(row.metric, name, row.values[place], row.against[place - 1 : place])
            for row in self.result.metrics
            for place, name in enumerate(self.names)
        ]
        return pandas.DataFrame(rows)

    @property
    def differences(self) -> "DataFrame":
        """A row per key that differs: its group (recipe, data, code ...), and its value by run."""
        import pandas

        rows = [
            {"group": group, "key": row.key, **dict(zip(self.names, row.values, strict=True))}
            for group, found in self.result.differences.items()
            for row in found
        ]
        return pandas.DataFrame(rows, columns=["group", "key", *self.names])

    def as_json(self) -> dict[str, Any]:
        """Return what `rlhf compare --json` prints, without the page."""
        from tasks.analysis.comparison import as_json

        return as_json(self.result)

    def page(self) -> str:
        """Return the comparison as one HTML page."""
        from flows.report.comparison import comparison_page

        return str(comparison_page(self.result))

    def attach(self, page: Path) -> str | None:
        """Store a page with each of the MLflow runs; return why that failed, None when it did not.

        It fails for readers without the right to write.
        """
        from tasks.analysis import mlflow_runs

        ids = [run.run_id for run in self.result.runs if run.run_id]
        return mlflow_runs.attach(self.client, ids, page, FOLDER)


def _metric_row(metric: str, run: str, value: Any, against: Sequence[Any]) -> dict[str, Any]:
    found = against[0] if against else None
    return {
        "metric": metric,
        "run": run,
        "value": value.value if value else None,
        "low": value.low if value else None,
        "high": value.high if value else None,
        "difference": found.difference if found else None,
        "difference_low": found.low if found else None,
        "difference_high": found.high if found else None,
        "verdict": found.verdict if found else "",
        "p_adjusted": found.p_adjusted if found else None,
    }


def compare(*runs: Run | str) -> RunComparison:
    """Compare runs with the first one, as `rlhf compare` does; nothing is written.

    runs: two or more, each a Run, a run's name, an MLflow run id or its start, latest, latest~1, or
    a model version such as "quickstart-policy@champion". They are read from MLflow. Raises
    ConfigError for a reference that names no run or several, and for the same run twice.
    """
    references = [_reference(run) for run in runs]
    client = tracking_client()
    from tasks.analysis import comparison, mlflow_runs

    found = [mlflow_runs.resolve(client, reference) for reference in references]
    _require_distinct(found, references)
    evidence = [mlflow_runs.read(client, run) for run in found]
    return RunComparison(comparison.compare(evidence), client)


def _reference(run: Run | str) -> str:
    if isinstance(run, Run):
        return run.run_id or run.name
    return run_name("a run to compare", run)


def _require_distinct(found: "list[MlflowRun]", references: list[str]) -> None:
    """Raise ConfigError unless these are two different runs or more."""
    if len(found) < 2:
        named = " ".join(references) or "none"
        raise ConfigError(
            f"rlhf compare needs two runs or more, found {named}. Add the one to compare with."
        )
    ids = [run.info.run_id for run in found]
    for place, run_id in enumerate(ids):
        if run_id in ids[:place]:
            first, second = references[ids.index(run_id)], references[place]
            raise ConfigError(
                f"{first} and {second} are the same run, {found[place].info.run_name}; expected two"
                " different ones."
            )


def lineage(reference: str) -> "Lineage":
    """Trace a model back to its data, or data to every model that saw it, as `rlhf lineage` does.

    reference: a model version such as "quickstart-policy@champion", a run, a digest of data or of a
    model (6 digits or more), or a data file. The result has `graph` (nodes and edges), and of data
    `saw`: how each model saw it. Raises ConfigError, which names candidates, when it names none.
    """
    require_text("the reference", reference)
    client = tracking_client()
    from tasks.analysis import lineage as analysis

    return analysis.lineage(client, reference)
