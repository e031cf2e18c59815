"""Start Prefect's ephemeral server so that it ends with the run, and only then.

Without PREFECT_API_URL Prefect starts a server for the length of a run, as a plain child. Ctrl-C in
a terminal reaches such a child too; the run then asks a dead server for minutes. After `kill -9` of
the run the child lives on without end. Prefect also starts it when a flow begins and waits for it,
about as long as a run takes to import Prefect and MLflow: `rlhf run` starts it before.
"""

import atexit
import contextlib
import os
import random
import socket
import sys
from dataclasses import dataclass

from flows.platform import prefect_address
from flows.settings import quiet_libraries
from rlhf_core.errors import RLHFError
from tasks.execution.guarded_process import GuardedProcess

_START = "_run_uvicorn_command"  # Prefect 3.7's function that starts the server
PORTS = range(8000, 9000)
EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PYTHONSAFEPATH": "1",  # a file of the current folder must not take a library's place
}


@dataclass(frozen=True)
class _Server:
    port: int
    process: GuardedProcess


_early: list[_Server] = []  # at most one: started, and not yet in use by Prefect


def start_early() -> None:
    """Start the server while this process imports its libraries, unless one is configured."""
    if _early or prefect_address.is_named():
        return
    quiet_libraries()  # the server inherits these settings
    port = _free_port()
    _early.append(_Server(port, _start(port, {})))
    atexit.register(_end_early)  # a run that is refused before Prefect needs it


def end_with_this_process() -> None:
    """Have Prefect start its ephemeral server as a guarded process group of its own.

    Do nothing where a server is configured, or where Prefect starts it in another way.
    """
    from prefect.settings import PREFECT_API_URL, get_current_settings

    if PREFECT_API_URL.value():
        _end_early()
        return
    from prefect.server.api.server import SubprocessASGIServer

    if not hasattr(SubprocessASGIServer, _START):
        _end_early()
        return

    def start(server: SubprocessASGIServer) -> GuardedProcess:
        if _early and _early[0].port == server.port:
            return _early.pop().process
        assert server.port  # found by Prefect just before
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        return _start(server.port, settings)

    setattr(SubprocessASGIServer, _START, start)
    server = SubprocessASGIServer()  # one per process
    if _early and not server.running:
        server.port = _early[0].port


def _free_port() -> int:
    """Return a free port of Prefect's own range, below those that a system gives to connections."""
    for port in random.SystemRandom().sample(PORTS, len(PORTS)):
        with socket.socket() as free, contextlib.suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise RLHFError(f"no port from {PORTS[0]} to {PORTS[-1]} is free; end a server there.")


def _end_early() -> None:
    while _early:
        _early.pop().process.end()


def _start(port: int, settings: dict[str, str]) -> GuardedProcess:
    application = ("--factory", "prefect.server.api.server:create_app")
    address = ("--host", "127.0.0.1", "--port", str(port))
    quiet = ("--log-level", "error", "--lifespan", "on")
    return GuardedProcess(
        [sys.executable, "-m", "uvicorn", *application, *address, *quiet],
        env={**os.environ, **EPHEMERAL, **settings},
    )
