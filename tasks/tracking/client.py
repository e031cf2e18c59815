"""The MLflow client, experiments and runs found or created by key, and addresses of pages."""

import os
import re

import mlflow
from mlflow import MlflowClient

from rlhf_core.errors import BadInput
from tasks.records.run_record import Membership, Record, Registration, now
from tasks.records.workspace import UI_URL, Workspace
from tasks.tracking.address import database_file, require_address, without_credentials
from tasks.tracking.sqlite_store import ensure_tables, quiet_loggers

URI_VARIABLE = "MLFLOW_TRACKING_URI"
PAGE_VARIABLE = "RLHF_MLFLOW_PAGE"
_PASSWORD = re.compile(r"(://[^/\s:@]*:)[^/\s@]*@")
KEY = "rlhf.key"  # '<record id>' on a parent, '<record id>/<stage>' on a stage

quiet_loggers()


def connect(uri: str) -> MlflowClient:
    """Make a store the one that MLflow's own functions use, and return a client of it.

    A SQLite store is made when absent. Raises BadInput for an address that no store has.
    """
    require_address(uri)
    before = os.environ.get(URI_VARIABLE)
    # MLflow resolves models:/ and mlflow-artifacts:/ there. The call writes the environment as
    # well, in which only the user says where a workspace's MLflow is.
    mlflow.set_tracking_uri(uri)
    if before is None:
        os.environ.pop(URI_VARIABLE, None)
    else:
        os.environ[URI_VARIABLE] = before
    ensure_tables(uri)
    return MlflowClient(tracking_uri=uri)


def require_store(uri: str) -> None:
    """Raise BadInput for a store that nothing can ever be forwarded to.

    One that does not answer now is something else: the run goes on, and is forwarded later. A
    SQLite store that does not exist yet is made by the first call of `connect`.
    """
    require_address(uri)
    file = database_file(uri)
    if file is not None and not file.exists():
        return
    try:
        ensure_tables(uri)
    except BadInput:
        raise
    except Exception:  # a full disk, a locked file: the tracker says so, and tries again
        return


def link(record: Record, run_id: str | None) -> str | None:
    """Return the page of a run of `record`, None while MLflow has no such run."""
    if run_id is None or record.experiment_id is None:
        return None
    return page(record.tracking_uri, record.experiment_id, run_id)


def page(tracking_uri: str, experiment_id: str, run_id: str) -> str:
    """Return the page of a run on a server, or where `rlhf ui` shows the SQLite store."""
    return f"{page_base(tracking_uri)}/#/experiments/{experiment_id}/runs/{run_id}"


def page_base(tracking_uri: str) -> str:
    """Return the address of MLflow for browsers.

    RLHF_MLFLOW_PAGE names a server that workers reach by another name, as in a container's network.
    A user name and password of the program's address are not in it: pages are printed and sent.
    """
    served = os.environ.get(PAGE_VARIABLE) or tracking_uri
    return without_credentials(served if tracking_uri.startswith("http") else UI_URL).rstrip("/")


def version_page(record: Record, registration: Registration) -> str:
    """Return the page of a registered version."""
    base = page_base(record.tracking_uri)
    return f"{base}/#/models/{registration.model}/versions/{registration.version}"


def report_link(record: Record) -> str | None:
    """Return the page of the run's report, None while MLflow has no such run."""
    base = link(record, record.run_id)
    return f"{base}/artifacts/{record.report.name}" if base and record.report else None


def brief(error: BaseException) -> str:
    """Return the kind and the first line of an error, without the password of an address in it.

    KeyboardInterrupt and its like are no errors: the text says that the process had to end.
    """
    if not isinstance(error, Exception):
        return (
            f"The process was asked to end (Ctrl-C or SIGTERM, {type(error).__name__}). Run it"
            " again and it resumes."
        )
    first = next(iter(str(error).strip().splitlines()), "")
    shown = _PASSWORD.sub(r"\1***@", first)
    return f"{type(error).__name__}: {shown[:300]}"


def find_or_create_experiment(client: MlflowClient, workspace: Workspace, name: str) -> str:
    """Return the id of the experiment `name`, created when absent.

    A local store keeps its artifacts in the workspace.
    """
    if found := client.get_experiment_by_name(name):
        return found.experiment_id
    local = not client.tracking_uri.startswith("http")
    return client.create_experiment(
        name, artifact_location=(workspace.artifacts / name).as_uri() if local else None
    )


def find_or_create_sweep_run(
    client: MlflowClient, experiment_id: str, sweep: Membership, recipe: str
) -> str:
    """Return the id of a sweep's run, the parent of its pipelines' runs, created when absent."""
    tags = {"stage": "sweep", "recipe": recipe, "sweep.keys": ", ".join(sweep.keys)}
    return find_or_create_run(client, experiment_id, (f"sweep/{sweep.id}", sweep.name, now()), tags)


def find_or_create_run(
    client: MlflowClient, experiment_id: str, what: tuple[str, str, int], tags: dict[str, str]
) -> str:
    """Return the id of the run with this key, created when absent.

    what: the key, the name and the start (milliseconds since the epoch).
    """
    key, name, started = what
    if found := client.search_runs([experiment_id], f"tags.`{KEY}` = '{key}'", max_results=1):
        return found[0].info.run_id
    return client.create_run(
        experiment_id, start_time=started, run_name=name, tags={KEY: key} | tags
    ).info.run_id
