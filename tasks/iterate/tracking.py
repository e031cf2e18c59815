"""The loop in MLflow: a run above its pipelines' runs, with the page, the state and a note."""

from pathlib import Path

from tasks.iterate.iteration import Iteration, save
from tasks.labels.files import PROVENANCE
from tasks.records.run_record import now
from tasks.records.workspace import Workspace
from tasks.tracking import client as tracking
from tasks.tracking.client import connect

LONGEST = 4900  # characters of a tag


def forward(workspace: Workspace, iteration: Iteration, page: Path, table: str) -> Iteration:
    """Log the rounds so far to MLflow, and return the iteration with the address of its run.

    table: the rounds as Markdown. Raises the client's errors when MLflow does not answer.
    """
    client = connect(iteration.tracking_uri)
    experiment_id = tracking.find_or_create_experiment(client, workspace, iteration.recipe)
    run_id = tracking.find_or_create_sweep_run(
        client, experiment_id, iteration.membership(), iteration.recipe
    )
    address = tracking.page(iteration.tracking_uri, experiment_id, run_id)
    iteration = iteration.model_copy(update={"run_id": run_id, "link": address})
    for file in (save(workspace, iteration), page):
        client.log_artifact(run_id, str(file))
    for one in iteration.rounds:
        if one.labels:
            provenance = one.labels.file.with_suffix(".labels") / PROVENANCE
            client.log_artifact(run_id, str(provenance), f"round-{one.number}")
    client.set_tag(run_id, "mlflow.note.content", f"**{iteration.name}**\n\n{table}"[:LONGEST])
    client.set_tag(run_id, "iterate.rounds", str(len(iteration.rounds) - 1))
    if len(iteration.rounds) > iteration.rounds_wanted:
        client.set_terminated(run_id, "FINISHED", now())
    else:
        client.update_run(run_id, status="RUNNING")
    return iteration


def close(iteration: Iteration) -> None:
    """End the loop's run in MLflow as failed: an error has ended the loop before its last round.

    Raises the client's errors when MLflow does not answer.
    """
    if iteration.run_id:
        connect(iteration.tracking_uri).set_terminated(iteration.run_id, "FAILED", now())
