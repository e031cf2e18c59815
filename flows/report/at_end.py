"""Write a run's report when it ends, and link it from Prefect; the tracker brings it to MLflow."""

import logging
from pathlib import Path

from prefect import runtime
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.report.run import run_page
from rlhf_core.rundir import write_atomically
from tasks.analysis import mlflow_runs
from tasks.analysis.run_evidence import RunEvidence, from_record
from tasks.registry import versions
from tasks.run_context import RunContext
from tasks.tracking import rendering
from tasks.tracking.client import brief, link, report_link

log = logging.getLogger("rlhf.report")
FOLDER, FILE = "reports", "report.html"


def write_report(context: RunContext) -> Path | None:
    """Write the report of a run that has ended; return its path, None when no stage had begun."""
    path = write_page(context)
    context.tracker.keep_report(path)
    if path and runtime.flow_run.id:
        _link_in_prefect(context, path)
    return path


def write_page(context: RunContext) -> Path | None:
    """Write the report of a run as it stands; return its path, None when no stage had begun.

    MLflow is not needed.
    """
    record, workspace = context.record, context.workspace
    if not record.stages:
        return None
    run = from_record(record, lambda run_id: link(record, run_id))
    path = workspace.home / FOLDER / f"{record.id}-{record.name}" / FILE
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, run_page(run, _champion(context, run), _versions(context)))
    return path


def _champion(context: RunContext, run: RunEvidence) -> RunEvidence | None:
    """Return the run that made the champion of the comparison; None when MLflow cannot say."""
    digest = run.model("champion")
    if digest is None or context.tracker.problem:
        return None
    try:
        client = context.tracker.client
        version = versions.version_with_digest(
            client, f"{context.recipe.registry.name}-policy", digest
        )
        return (
            mlflow_runs.read(
                client, mlflow_runs.resolve(client, f"{version.name}/{version.version}")
            )
            if version
            else None
        )
    except Exception as error:  # the report must be written whatever becomes of MLflow
        log.warning("the champion's run is left out of the report (%s)", brief(error))
        return None


def _versions(context: RunContext) -> dict[str, list[str]]:
    """Return the versions that this run registered, by the digest of their model."""
    registered = [item for item in context.record.registrations if item.version]
    return {item.artifact.digest: [f"{item.model} {item.version}"] for item in registered}


def _link_in_prefect(context: RunContext, path: Path) -> None:
    record = context.record
    url = report_link(record) or path.as_uri()
    note = (
        f"[Report of {record.name}]({url}), also at `{path}`.\n\n{rendering.pipeline_note(record)}"
    )
    try:
        create_link_artifact(url, key="report", link_text=f"Report of {record.name}")
        create_markdown_artifact(note, key="report-summary", description=f"Result of {record.name}")
    except Exception as error:  # a Prefect server that is gone must not cost the report
        log.warning("the report is not linked from Prefect (%s)", brief(error))
