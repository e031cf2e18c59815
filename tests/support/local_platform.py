"""A platform of a workspace (`rlhf up`), what tests do with it, and a recipe that needs no
training.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import httpx

RLHF = [sys.executable, "-c", "import sys; from flows.cli.app import main; sys.exit(main())"]
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


class Platform:
    """A workspace with a Prefect server, an MLflow server and a worker, once `up` was called."""

    def __init__(self, folder: Path, recipe: str):
        self.home, self.recipe, self.told = folder, recipe, []
        self.environment = {k: v for k, v in os.environ.items() if k != "PREFECT_HOME"} | {
            "RLHF_HOME": str(folder)
        }
        self.environment["RLHF_ALLOWED_ROOTS"] = str(
            folder.parent
        )  # the models of all tests lie there
        for name in ("PREFECT_API_URL", "MLFLOW_TRACKING_URI"):
            self.environment.pop(name, None)
        self.api = ""

    def rlhf(self, *words: str) -> str:
        done = subprocess.run(
            [*RLHF, *words], capture_output=True, text=True, env=self.environment, cwd=self.home
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def post(self, path: str, **values):
        return self.ask("POST", path, json=values).json()

    def ask(self, method: str, path: str, **more) -> httpx.Response:
        """A request to Prefect's server; again while SQLite is locked (503), as Prefect's own
        client does.
        """
        end = time.monotonic() + 60
        while True:
            reply = httpx.request(method, f"{self.api}/{path}", timeout=60, **more)
            if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > end:
                return reply.raise_for_status()
            time.sleep(1)

    def start(self, name: str, state: dict | None = None, **parameters) -> str:
        """Create a run of a deployment, due now unless `state` says otherwise; its id."""
        deployment = self.ask("GET", f"deployments/name/{name}").json()
        more = {"state": state} if state else {}
        return self.post(
            f"deployments/{deployment['id']}/create_flow_run", parameters=parameters, **more
        )["id"]

    def runs(self, name: str) -> list[dict]:
        return self.post("flow_runs/filter", deployments={"name": {"any_": [name]}})

    def wait(self, condition, seconds: float = 120):
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, (self.home / "platform" / "worker.log").read_text()[
                -3000:
            ]
            time.sleep(1)
        return found

    def ended(self, name: str, count: int) -> list[str]:
        """Names of the states that `count` runs of a deployment have ended in."""
        done = self.wait(
            lambda: (
                [run for run in self.runs(name) if run["state"]["type"] in FINAL][count - 1 :]
                and self.runs(name)
            )
        )
        return sorted(run["state"]["name"] for run in done if run["state"]["type"] in FINAL)
