"""Start Prefect's ephemeral server so that it ends with the run, and only then.

Without PREFECT_API_URL Prefect starts a server for the length of a run, as a plain child. Ctrl-C in
a terminal reaches such a child too; the run then asks a dead server for minutes. After `kill -9` of
the run the child lives on without end. Prefect also starts it when a flow begins and waits for it,
about as long as a run takes to import Prefect and MLflow, and imports the server's code for it. So
`rlhf run` starts the server before, and names it to Prefect as if it were configured.
"""

import atexit
import contextlib
import importlib
import os
import random
import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from flows.platform import prefect_address
from flows.platform.database import CONNECTION, prepare_file
from flows.platform.pages import answers
from flows.settings import quiet_libraries
from rlhf_core.errors import RLHFError
from tasks.execution.guarded_process import GuardedProcess

START_SECONDS = 120.0  # a loaded machine takes 20 and more
PORTS = range(8000, 9000)
DATABASES = ("PREFECT_API_DATABASE_CONNECTION_URL", CONNECTION)
PROGRAM = ("tasks.execution.rarely_collecting", "uvicorn")
NEEDED_LATER = ("mlflow.store.db.utils", "scipy.stats")  # by every run, half a second each
EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PYTHONSAFEPATH": "1",  # a file of the current folder must not take a library's place
}


@dataclass(frozen=True)
class _Server:
    port: int
    process: GuardedProcess

    @property
    def url(self) -> str:
        """The address of Prefect's API."""
        return f"http://127.0.0.1:{self.port}/api"


_started: list[_Server] = []  # at most one, for all runs of this process


def start_early() -> None:
    """Start the server while this process imports its libraries, unless one is configured."""
    if _started or prefect_address.is_named():
        return
    quiet_libraries()  # the server inherits these settings
    _start({})
    atexit.register(_end)  # a run that is refused before Prefect needs it


@contextlib.contextmanager
def for_runs() -> Iterator[None]:
    """Let flows within use this process's own server, or the one that is configured.

    Raises RLHFError where the own server does not start, BadInput where it cannot read the
    workspace's flow runs.
    """
    from prefect.settings import (
        PREFECT_API_URL,
        PREFECT_FLOWS_HEARTBEAT_FREQUENCY,
        get_current_settings,
        temporary_settings,
    )

    from tasks.execution.prefect_server import lasting_server, note_own

    if lasting_server():
        _end()
        yield
        return
    if _started and _started[0].process.poll() is not None:
        _end()
    if not _started:
        _start(get_current_settings().to_environment_variables(exclude_unset=True))
    server = _started[0]
    _wait(server)
    atexit.unregister(_end)  # its guard ends it after this process, which need not wait
    note_own(server.url)
    # the server ends with the run: nobody waits for heartbeats, whose thread sleeps whole seconds
    with temporary_settings({PREFECT_API_URL: server.url, PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield


def _wait(server: _Server) -> None:
    """Return when the server answers; until then import what the run needs later."""
    deadline, needed = time.monotonic() + START_SECONDS, iter(NEEDED_LATER)
    while not answers(f"{server.url}/health"):
        if server.process.poll() is not None or time.monotonic() > deadline:
            _end()
            raise RLHFError(
                f"Prefect's server did not answer at {server.url} within {START_SECONDS:.0f} s;"
                " rlhf doctor says what is wrong with the installation."
            )
        if name := next(needed, None):
            importlib.import_module(name)
        else:
            time.sleep(0.05)


def _free_port() -> int:
    """Return a free port of Prefect's own range, below those that a system gives to connections."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise RLHFError(f"no port from {PORTS[0]} to {PORTS[-1]} is free; end a server there.")


def _end() -> None:
    while _started:
        _started.pop().process.end()


def _start(settings: dict[str, str]) -> None:
    if not any(name in os.environ for name in DATABASES):
        # set by flows/settings.py
        settings = prepare_file(Path(os.environ["PREFECT_HOME"])) | settings
    port = _free_port()
    application = ("--factory", "prefect.server.api.server:create_app")
    address = ("--host", "127.0.0.1", "--port", str(port))
    quiet = ("--log-level", "error", "--lifespan", "on")
    process = GuardedProcess(
        [sys.executable, "-m", *PROGRAM, *application, *address, *quiet],
        env={**os.environ, **EPHEMERAL, **settings},
    )
    _started.append(_Server(port, process))
