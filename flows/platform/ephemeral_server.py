"""Start Prefect's ephemeral server so that it ends with the run, and only then.

Without PREFECT_API_URL Prefect starts a server for the length of a run, as a plain child. Ctrl-C in
a terminal reaches such a child too; the run then asks a dead server for minutes. After `kill -9` of
the run the child lives on without end.
"""

import os
import sys

from prefect.settings import PREFECT_API_URL, get_current_settings

from tasks.execution.guarded_process import GuardedProcess

_START = "_run_uvicorn_command"  # Prefect 3.7's function that starts the server
EPHEMERAL = {
    "PREFECT_UI_ENABLED": "0",
    "PREFECT__SERVER_EPHEMERAL": "1",
    "PREFECT__SERVER_FINAL": "1",
    "PYTHONSAFEPATH": "1",  # a file of the current folder must not take a library's place
}


def end_with_this_process() -> None:
    """Have Prefect start its ephemeral server as a guarded process group of its own.

    Do nothing where a server is configured, or where Prefect starts it in another way.
    """
    if PREFECT_API_URL.value():
        return
    from prefect.server.api.server import SubprocessASGIServer

    if hasattr(SubprocessASGIServer, _START):
        setattr(SubprocessASGIServer, _START, lambda server: _start(server.port))


def _start(port: int) -> GuardedProcess:
    settings = get_current_settings().to_environment_variables(exclude_unset=True)
    application = ("--factory", "prefect.server.api.server:create_app")
    address = ("--host", "127.0.0.1", "--port", str(port))
    quiet = ("--log-level", "error", "--lifespan", "on")
    return GuardedProcess(
        [sys.executable, "-m", "uvicorn", *application, *address, *quiet],
        env={**os.environ, **EPHEMERAL, **settings},
    )
