"""A real MLflow server for one test."""

import contextlib
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path


@contextlib.contextmanager
def mlflow_server(
    folder: Path, port: int, *words: str, **environment: str
) -> Iterator[Callable[[int], None]]:
    """Start a server on the database `folder/db` and kill its process group at the end.

    `words` and `environment` are further ones for the server. Yield a function that sends a signal
    to the process group.
    """
    command = [sys.executable, "-m", "mlflow", "server", "--port", str(port), "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{folder}/db"]
    command += ["--artifacts-destination", str(folder / "artifacts"), *words]
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env=os.environ | {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"} | environment,
    )
    try:
        end = time.monotonic() + 120
        while True:
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1)
                break
            assert time.monotonic() < end and process.poll() is None
            time.sleep(0.2)
        yield lambda number: os.killpg(process.pid, number)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
