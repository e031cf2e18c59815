"""A platform of a workspace (`rlhf up`) and what tests do with it."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
from command_line import RLHF, environment_of

Found = TypeVar("Found")
FINAL = {"COMPLETED", "FAILED", "CANCELLED", "CRASHED"}


def write_recipe(folder: Path, base: Path) -> Path:
    """Write a recipe `tiny` with its two files of one row each, and return its path."""
    (folder / "d.jsonl").write_text('{"prompt": "p", "response": "r"}\n')
    (folder / "c.jsonl").write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    recipe = folder / "tiny.toml"
    recipe.write_text(
        f'name = "tiny"\nmodel.base = "{base}"\nregistry.name = "tiny"\n'
        'data.demonstrations = "d.jsonl"\ndata.comparisons = "c.jsonl"\n'
    )
    return recipe


class Platform:
    """A workspace with a Prefect server, an MLflow server and a worker, once `up` was called."""

    def __init__(self, folder: Path, recipe: str):
        self.home, self.recipe = folder, recipe
        self.notifications: list[dict] = []
        # the models of all tests are in the folder above
        allowed = {"RLHF_ALLOWED_ROOTS": str(folder.parent)}
        self.environment = environment_of(folder) | allowed
        self.api = ""

    def rlhf(self, *words: str) -> str:
        done = subprocess.run(
            [*RLHF, *words], capture_output=True, text=True, env=self.environment, cwd=self.home
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def post(self, path: str, **values: object) -> Any:
        return self.ask("POST", path, json=values).json()

    def ask(self, method: str, path: str, **more: Any) -> httpx.Response:
        """Send a request to Prefect's server; again while SQLite is locked (503).

        Prefect's own client does the same.
        """
        end = time.monotonic() + 60
        while True:
            reply = httpx.request(method, f"{self.api}/{path}", timeout=60, **more)
            if reply.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > end:
                return reply.raise_for_status()
            time.sleep(1)

    def start(self, name: str, state: dict | None = None, **parameters: object) -> str:
        """Create a run of a deployment, due now unless `state` says otherwise; return its id."""
        deployment = self.ask("GET", f"deployments/name/{name}").json()
        more = {"state": state} if state else {}
        return self.post(
            f"deployments/{deployment['id']}/create_flow_run", parameters=parameters, **more
        )["id"]

    def runs(self, name: str) -> list[dict]:
        return self.post("flow_runs/filter", deployments={"name": {"any_": [name]}})

    def wait(self, condition: Callable[[], Found], seconds: float = 120) -> Found:
        end = time.monotonic() + seconds
        while not (found := condition()):
            assert time.monotonic() < end, (self.home / "platform" / "worker.log").read_text()[
                -3000:
            ]
            time.sleep(1)
        return found

    def ended(self, name: str, count: int) -> list[str]:
        """Return the names of the states that `count` runs of a deployment have ended in."""
        done = self.wait(
            lambda: (
                [run for run in self.runs(name) if run["state"]["type"] in FINAL][count - 1 :]
                and self.runs(name)
            )
        )
        return sorted(run["state"]["name"] for run in done if run["state"]["type"] in FINAL)
