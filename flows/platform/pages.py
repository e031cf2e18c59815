"""Serve MLflow's page and Prefect's page for a workspace, as child processes, until Ctrl-C."""

import contextlib
import os
import signal
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.platform import prefect_address
from flows.platform.database import prepare_file
from rlhf_core.errors import BadInput, RLHFError
from tasks.execution.guarded_process import GuardedProcess
from tasks.records.workspace import Workspace
from tasks.tracking.address import redacted
from tasks.tracking.sqlite_store import ensure_tables

HOST = "127.0.0.1"
MLFLOW_PORT = 5000
PREFECT_PORT = 4200
START_SECONDS = 120.0
NO_ACCOUNT = (
    "the Prefect server at {url} wants another account; set PREFECT_API_AUTH_STRING=NAME:PASSWORD"
)
QUIET = {
    # would start a second process of 240 MB that these pages do not need
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PYTHONSAFEPATH": "1",  # a file of the current folder must not take a library's place
}


@dataclass(frozen=True)
class Page:
    """A page and its server. command: None for a server that runs elsewhere already."""

    name: str
    url: str
    health: str
    command: tuple[str, ...] | None


def port_is_free(port: int) -> bool:
    """Return True when nothing listens on `port` of the loopback interface."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
        return True


def choose_port(given: int | None, usual: int) -> int:
    """Return the port given, else the usual one, else any free one.

    Raises BadInput when the port given is taken, or is no port.
    """
    if given is not None:
        if not 1 <= given <= 65535:
            raise BadInput(f"port {given} does not exist; expected one from 1 to 65535.")
        if not port_is_free(given):
            raise BadInput(
                f"port {given} is taken; give another one, or leave the option out for a free one."
            )
        return given
    return usual if port_is_free(usual) else free_port()


def free_port() -> int:
    """Return a port on which nothing listens."""
    with socket.socket() as listener:
        listener.bind((HOST, 0))
        return listener.getsockname()[1]


def mlflow_page(workspace: Workspace, port: int | None) -> Page:
    """Return MLflow's page on the workspace's store, or the server in MLFLOW_TRACKING_URI."""
    uri = workspace.tracking_uri
    if uri.startswith("http"):
        return Page("MLflow", uri, uri.rstrip("/") + "/health", None)
    ensure_tables(uri)
    port = choose_port(port, MLFLOW_PORT)
    arguments = ["--backend-store-uri", uri, "--default-artifact-root", str(workspace.artifacts)]
    command = (
        sys.executable,
        "-m",
        "mlflow",
        "server",
        *arguments,
        "--host",
        HOST,
        "--port",
        str(port),
        "-w",
        "1",
    )
    return Page("MLflow", f"http://{HOST}:{port}", f"http://{HOST}:{port}/health", command)


def prefect_page(port: int | None) -> Page:
    """Return Prefect's page on the workspace's flow runs, or that of the configured server."""
    if address := prefect_address.configured():
        api = address.url.rstrip("/")
        return Page("Prefect", api.removesuffix("/api"), api + "/health", None)
    port = choose_port(port, PREFECT_PORT)
    arguments = ("server", "start", "--host", HOST, "--port", str(port), "--no-services")
    command = (sys.executable, "-m", "prefect", *arguments)
    return Page("Prefect", f"http://{HOST}:{port}", f"http://{HOST}:{port}/api/health", command)


def answers(url: str, timeout: float = 2.0) -> bool:
    """Return True when an HTTP GET of `url` succeeds. No proxy is used."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout) as reply:
            return reply.status < 400
    except (urllib.error.URLError, OSError, ValueError):
        return False


def refuses_account(error: Exception) -> bool:
    """Return True when Prefect's server has refused the account (HTTP 401)."""
    return getattr(getattr(error, "response", None), "status_code", None) == 401


@contextlib.contextmanager
def server(page: Page, log: Path, home: Path) -> Iterator[GuardedProcess | None]:
    """Run the page's server as a process group of its own, and end it with the block.

    It also ends with this process, whatever kills this process. home: Prefect's folder.
    """
    if page.command is None:
        yield None
        return
    # without its own address Prefect's page uses port 4200, whatever port it is served on
    environment = (
        QUIET
        | dict(os.environ)
        | {"PREFECT_HOME": str(home), "PREFECT_SERVER_UI_API_URL": f"{page.url}/api"}
    )
    with log.open("wb") as output:
        process = GuardedProcess(page.command, stdout=output, stderr=output, env=environment)
    try:
        yield process
    finally:
        process.end()


def wait_until_ready(page: Page, process: GuardedProcess | None, log: Path) -> None:
    """Return when the page answers.

    Raises RLHFError with the end of its log when it dies or takes too long.
    """
    end = time.monotonic() + START_SECONDS
    while not answers(page.health):
        if process is None:
            raise RLHFError(
                f"{page.name} at {redacted(page.url)} does not answer; start it, or unset its"
                " address to use a local one."
            )
        if process.poll() is not None or time.monotonic() > end:
            tail = "\n  ".join(log.read_text(errors="replace", encoding="utf-8").splitlines()[-15:])
            raise RLHFError(f"{page.name} did not start; the end of its log {log}:\n  {tail}")
        time.sleep(0.3)


def serve(
    workspace: Workspace, ports: tuple[int | None, int | None], ready: Callable[[list[Page]], None]
) -> None:
    """Serve both pages until Ctrl-C or SIGTERM, and call `ready` once they answer.

    ports: MLflow's and Prefect's. Raises BadInput for a port that is taken and for flow runs of a
    later Prefect, RLHFError for a page that does not answer.
    """
    pages = [mlflow_page(workspace, ports[0]), prefect_page(ports[1])]
    if pages[1].command:
        prepare_file(workspace.prefect)
    logs = [workspace.home / f"ui-{page.name.lower()}.log" for page in pages]
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        with contextlib.ExitStack() as stack:
            running = [
                stack.enter_context(server(page, log, workspace.prefect))
                for page, log in zip(pages, logs, strict=True)
            ]
            for page, process, log in zip(pages, running, logs, strict=True):
                wait_until_ready(page, process, log)
            ready(pages)
            _wait_until_one_ends(pages, running, logs)
    except KeyboardInterrupt:
        return
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def _wait_until_one_ends(
    pages: list[Page], running: list[GuardedProcess | None], logs: list[Path]
) -> None:
    """Wait for ever; raise RLHFError when a server ends."""
    while True:
        for page, process, log in zip(pages, running, logs, strict=True):
            if process is not None and process.poll() is not None:
                raise RLHFError(
                    f"{page.name} ended with exit code {process.returncode}; its log is {log}"
                )
        time.sleep(0.5)
