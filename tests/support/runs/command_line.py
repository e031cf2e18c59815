"""The `rlhf` command, as a process and in this process."""

import os
import subprocess
import sys
from pathlib import Path

RLHF = [sys.executable, "-c", "from flows.cli.app import run; run()"]
SERVERS = ("PREFECT_API_URL", "PREFECT_HOME", "MLFLOW_TRACKING_URI")


def environment_of(home: Path) -> dict[str, str]:
    """Return the environment of a process that works on this workspace and on no other server."""
    return {k: v for k, v in os.environ.items() if k not in SERVERS} | {"RLHF_HOME": str(home)}


def rlhf_process(home: Path, *words: str) -> subprocess.CompletedProcess:
    """Run the command line on this workspace in a process of its own."""
    return subprocess.run([*RLHF, *words], capture_output=True, text=True, env=environment_of(home))


def rlhf_exit_code(*words: object) -> int:
    """Run the command line in this process and return its exit code."""
    from flows.cli.app import main

    try:
        return main([str(word) for word in words])
    except SystemExit as end:
        # a text as code is a message on standard error and exit code 1
        return end.code if isinstance(end.code, int) else int(end.code is not None)
