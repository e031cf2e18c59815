"""Start promotions in processes of their own."""

import json
import subprocess
import sys
from pathlib import Path

from tasks.promotion.aliases import RegistryAliases


class Promoters:
    """Real processes that promote, forked by one that has loaded the libraries (promoter.py)."""

    def __init__(self) -> None:
        program = str(Path(__file__).parent / "promoter.py")
        self.server = subprocess.Popen(
            [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdin and self.server.stdout  # both are pipes
        self.to_server, self.from_server = self.server.stdin, self.server.stdout
        assert self.from_server.readline() == "ready\n"

    def run(self, registry: RegistryAliases, *jobs: dict) -> list[dict]:
        """Run the jobs at once, each in its own process, and return a result per job.

        A result holds promoted, reason, error, kind of error and exit code.
        """
        uri = registry.client.tracking_uri
        environment = {
            "RLHF_HOME": str(registry.workspace.home),
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        }
        self.to_server.write(
            json.dumps({"name": registry.name, "environment": environment, "jobs": jobs}) + "\n"
        )
        self.to_server.flush()
        return json.loads(self.from_server.readline())

    def close(self) -> None:
        """End the process that forks."""
        self.to_server.close()
        self.server.wait(60)  # its libraries take long to leave on a busy machine
