"""The services of the platform: command, environment, health address."""

import os
import sys
from dataclasses import dataclass

from flows.platform.pages import QUIET, free_port
from flows.platform.state import HOST, Platform
from tasks.live.allowed import ALLOWED
from tasks.records.workspace import Workspace
from tasks.stages.spec import ROOTS

MARKER = "RLHF_PLATFORM"  # in the environment of every process of a platform: its workspace
# in files: with leases in memory, a killed server would never give back its slots
LEASES = "prefect.server.concurrency.lease_storage.filesystem"
# retries of a request, after 2, 4, ..., 256 s, so that a run goes on while Prefect's server is away
# for some minutes
RETRIES = "8"
HEARTBEAT_SECONDS = 30  # Prefect's minimum; a run that misses three heartbeats has crashed
DATABASE = "RLHF_DATABASE_URL"  # with a password, which the keeper alone needs besides the servers
# the user's servers, not of this platform
ELSEWHERE = ("PREFECT_API_URL", "MLFLOW_TRACKING_URI", DATABASE)
KEEPER = "keeper"
# the words after the interpreter that tell the processes of services from others
KINDS = {
    ("-m", "flows.platform.prefect_server", "server"),
    ("-m", "mlflow", "server"),
    ("-m", "prefect", "worker"),
    ("-P", "-m", "flows.team.server"),
    ("-P", "-m", "flows.platform.keeper"),
}


@dataclass(frozen=True)
class Program:
    """A service to start. after: the services that must answer first."""

    name: str
    command: tuple[str, ...]
    environment: dict[str, str]
    health: str
    after: tuple[str, ...] = ()


def environment(workspace: Workspace) -> dict[str, str]:
    """Return the environment of every process of the platform."""
    inherited = {name: value for name, value in os.environ.items() if name not in ELSEWHERE}
    own = {
        "RLHF_HOME": str(workspace.home),
        "PREFECT_HOME": str(workspace.prefect),
        MARKER: str(workspace.home),
    }
    return QUIET | inherited | own


def prefect(workspace: Workspace, platform: Platform, database: str | None) -> Program:
    """Return Prefect's server with its scheduler, late runs, events and automations."""
    values = environment(workspace) | {
        "PREFECT_SERVER_UI_API_URL": platform.prefect_api,
        "PREFECT_UI_URL": platform.prefect_url,
        "PREFECT_SERVER_CONCURRENCY_LEASE_STORAGE": LEASES,
    }
    if database:
        values["PREFECT_API_DATABASE_CONNECTION_URL"] = database
    words = ("server", "start", "--host", HOST, "--port", str(platform.prefect_port))
    program = (sys.executable, "-m", "flows.platform.prefect_server", *words)
    return Program("prefect", program, values, f"{platform.prefect_api}/health")


def mlflow(workspace: Workspace, platform: Platform, database: str | None) -> Program:
    """Return MLflow's server.

    Artifacts are in the workspace, where they are also found without a server.
    """
    store = database or workspace.own_store
    # in the environment, because every user of the machine sees a process's arguments
    # the gateway of this server, which listens on this machine alone, serves models of this machine
    values = ALLOWED | environment(workspace) | {"MLFLOW_BACKEND_STORE_URI": store}
    words = ("server", "--default-artifact-root", str(workspace.artifacts), "--host", HOST)
    command = (
        sys.executable,
        "-m",
        "mlflow",
        *words,
        "--port",
        str(platform.mlflow_port),
        "-w",
        "1",
    )
    return Program("mlflow", command, values, f"{platform.mlflow_url}/health")


def worker(workspace: Workspace, platform: Platform, *, port: int) -> Program:
    """Return a process worker of the pool. port: of its health page.

    Anybody can type a run into a form of Prefect's page. So, unless RLHF_ALLOWED_ROOTS says
    otherwise, the recipes of its runs may read only the folder in which the platform was started,
    and the workspace.
    """
    values = {ROOTS: f"{os.getcwd()}:{workspace.home}"} | environment(workspace)
    values |= {
        "PREFECT_API_URL": platform.prefect_api,
        "MLFLOW_TRACKING_URI": platform.mlflow_url,
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT_SECONDS),
        "PREFECT_CLIENT_MAX_RETRIES": RETRIES,
        "PREFECT_WORKER_WEBSERVER_HOST": HOST,
        "PREFECT_WORKER_WEBSERVER_PORT": str(port),
    }
    limit = platform.limit
    words = ("worker", "start", "--pool", platform.pool, "--type", "process", "--with-healthcheck")
    command = (sys.executable, "-m", "prefect", *words, *(("--limit", str(limit)) if limit else ()))
    return Program(
        "worker", command, values, f"http://{HOST}:{port}/health", after=("prefect", "mlflow")
    )


def page(workspace: Workspace, platform: Platform) -> Program:
    """Return the server of the team's page.

    It asks the other servers once: a page that says which one is away must not wait for it.
    """
    values = environment(workspace) | {
        "PREFECT_API_URL": platform.prefect_api,
        "MLFLOW_TRACKING_URI": platform.mlflow_url,
        "PREFECT_CLIENT_MAX_RETRIES": "0",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    }
    command = (sys.executable, "-P", "-m", "flows.team.server", str(platform.page_port))
    return Program("page", command, values, f"{platform.page_url}/health")


def keeper(workspace: Workspace, database: str | None) -> Program:
    """Return the process that starts the other services again when they die.

    database: the URL with its password, which the servers need when they are started again.
    """
    values = environment(workspace) | ({DATABASE: database} if database else {})
    command = (sys.executable, "-P", "-m", "flows.platform.keeper")
    return Program(KEEPER, command, values, "", after=("prefect", "mlflow", "worker", "page"))


def programs(
    workspace: Workspace, platform: Platform, urls: dict[str, str], database: str | None
) -> list[Program]:
    """Return every service, in the order in which they start.

    urls: of the databases of 'prefect' and 'mlflow'. database: the URL that they were made from.
    """
    return [
        prefect(workspace, platform, urls.get("prefect")),
        mlflow(workspace, platform, urls.get("mlflow")),
        worker(workspace, platform, port=free_port()),
        page(workspace, platform),
        keeper(workspace, database),
    ]
