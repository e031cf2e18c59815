"""A platform on its own PostgreSQL whose stages are the stage program; what holds after a fault."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections import Counter
from pathlib import Path

import psutil
import pytest
from command_line import RLHF
from local_platform import Platform, write_recipe
from mlflow import MlflowClient
from postgres import Server, postgres

from flows.platform.pages import free_port
from tasks.records.workspace import Workspace
from tasks.registry.fetching import fetch

PROGRAM = Path(__file__).resolve().parents[2] / "support" / "runs" / "stage_program.py"
STEPS = {"sft": "sft/loss", "reward": "reward/loss", "ppo": "ppo/kl_per_response"}
UNSETTLED = ["SCHEDULED", "PENDING", "RUNNING", "CANCELLING"]
INSTEAD = """
import os, sys
if sys.orig_argv[1:3] == ["-m", "rlhf_core"]:
    os.execv(sys.executable, [sys.executable, {program!r}, *sys.orig_argv[3:]])
"""


def _set(*settings: str) -> list[str]:
    """Return the options for the settings; a seed also splits the data, so validate is its own."""
    own = [f"data.split_{setting}" for setting in settings if setting.startswith("seed=")]
    return [word for setting in (*settings, *own) for word in ("--set", setting)]


class Site(Platform):
    """The platform, runs by hand on it, and its processes."""

    def __init__(self, folder: Path, recipe: str, database: Server):
        super().__init__(folder, recipe)
        self.database = database
        self.environment |= {"RLHF_DATABASE_URL": database.url, "RLHF_DEVICE_LIMITS": "the-gpu"}
        self.environment["PYTHONPATH"] = os.pathsep.join(
            [str(folder / "program"), os.environ.get("PYTHONPATH", "")]
        )
        self.services: dict[str, int] = {}

    def up(self, *words: str) -> None:
        """Start what does not run, and let it stay down when it is killed."""
        found = json.loads(self.rlhf("up", "--json", "--no-restart", *words))
        self.api, self.mlflow = found["prefect_url"] + "/api", found["mlflow_url"]
        self.services = {
            name: service["owner"]["pid"] for name, service in found["services"].items()
        }

    def wait(self, condition, seconds: float = 420):
        """Wait as ever, and for as long as the lease of a slot lasts that a killed run held."""
        return super().wait(condition, seconds)

    # stages

    def plan(self, **stages: dict) -> None:
        """Say how the stages behave from now on.

        Forget what was started before, and end what a failed test left.
        """
        self.tell_runs(signal.SIGKILL)
        (self.home / "program" / "plan.json").write_text(json.dumps(stages))
        (self.home / "program" / "go").unlink(missing_ok=True)
        (self.home / "runs" / "started.log").unlink(missing_ok=True)

    def go(self) -> None:
        """Let a stage that holds go on."""
        (self.home / "program" / "go").touch()

    def started(self) -> list[str]:
        file = self.home / "runs" / "started.log"
        return file.read_text().split() if file.exists() else []

    def in_stage(self, stage: str) -> None:
        """Wait until a stage that was started since `plan` is at work."""
        self.wait(lambda: stage in self.started() and self.stage_process(stage))

    def stage_process(self, stage: str) -> psutil.Process | None:
        """The stage's process, without its guard."""
        found = [
            process for process in self.of_runs() if process.cmdline()[1:3] == [self.program, stage]
        ]
        return found[0] if found else None

    @property
    def program(self) -> str:
        return str(self.home / "program" / "stage.py")

    # runs

    def by_hand(self, *settings: str, **environment: str) -> subprocess.Popen:
        """`rlhf run` of the recipe."""
        return subprocess.Popen(
            [*RLHF, "run", self.recipe, "--json", *_set(*settings)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment | environment,
            cwd=self.home,
        )

    def deployed(self, name: str, *settings: str) -> str:
        """Deploy the recipe under a registry name of its own and start it; the flow run's id."""
        words = _set(f"registry.name={name}", *settings)
        self.rlhf("deploy", self.recipe, "--name", name, *words)
        return self.start(f"rlhf/{name}")

    def states(self, name: str) -> list[tuple[str, str]]:
        """Names and messages of the states that a deployment's runs are in."""
        return sorted(
            (run["state"]["name"], run["state"]["message"] or "") for run in self.runs(name)
        )

    # processes

    def of_runs(self) -> list[psutil.Process]:
        """Live processes of runs: flow runs that the worker has started, guards, stages."""
        found = []
        for process in psutil.process_iter():
            try:
                words = process.cmdline()
                if (
                    process.environ().get("RLHF_HOME") == str(self.home)
                    and process.status() != psutil.STATUS_ZOMBIE
                ):
                    found += (
                        [process]
                        if self.program in words or {"flow-run", "prefect.engine"} & set(words)
                        else []
                    )
            except psutil.Error:
                continue
        return found

    def tell_runs(self, number: signal.Signals) -> None:
        """Send a signal to every process of runs."""
        for process in self.of_runs():
            with contextlib.suppress(psutil.NoSuchProcess):  # ended because of those before it
                process.send_signal(number)

    def kill(self, service: str) -> None:
        """Kill a server with all its processes, the worker without the runs that it has started."""
        leader = psutil.Process(self.services[service])
        (os.kill if service == "worker" else os.killpg)(leader.pid, signal.SIGKILL)
        leader.wait(30)
        self.wait(lambda: f"{service:8} has died: rlhf up starts it" in self.rlhf("status"), 30)

    # what must hold after every fault

    def sound(self, started: list[str]) -> None:
        """Check what must hold after every fault.

        No finished work was repeated, no metric is lost or doubled, no run is left RUNNING, no
        process is an orphan, no slot is held, and every registered version has the bytes that it
        states. `started` names the stages that may have been started since `plan`, a killed one
        twice.
        """
        assert Counter(self.started()) == Counter(started)
        self.wait(lambda: not self.of_runs(), 60)
        self.rlhf("sync")
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", self.mlflow)
            self._mlflow_is_complete()
        unsettled = self.post(
            "flow_runs/filter", flow_runs={"state": {"type": {"any_": UNSETTLED}}}
        )
        assert [run["name"] for run in unsettled] == []
        self.wait(
            lambda: (
                not [
                    1
                    for limit in self.post("v2/concurrency_limits/filter")
                    if limit["active_slots"]
                ]
            ),
            60,
        )

    def _mlflow_is_complete(self) -> None:
        client = MlflowClient(self.mlflow)
        experiments = [experiment.experiment_id for experiment in client.search_experiments()]
        runs = client.search_runs(experiments, max_results=1000)
        assert [run.info.run_name for run in runs if run.info.status == "RUNNING"] == []
        for run in runs:
            stage = run.data.tags["stage"]
            if stage in STEPS and run.info.status == "FINISHED":
                points = client.get_metric_history(run.info.run_id, STEPS[stage])
                # not the stage's result
                of_steps = sorted(point.step for point in points if point.value == 1.0 / point.step)
                assert of_steps == [1, 2, 3], (run.info.run_name, stage)
        for version in client.search_model_versions():
            if not version.source.startswith("ledger:"):  # an entry of the ledger has no bytes
                assert fetch(Workspace(self.home), version).digest == version.tags["digest"]


@pytest.fixture(scope="package")
def site(tmp_path_factory, tiny_model, ready_models):
    folder = tmp_path_factory.mktemp("site")
    program = folder / "program"
    program.mkdir()
    shutil.copy(PROGRAM, program / "stage.py")
    (program / "models").symlink_to(ready_models)
    (program / "sitecustomize.py").write_text(INSTEAD.format(program=str(program / "stage.py")))
    (program / "plan.json").write_text("{}")
    recipe = write_recipe(folder, tiny_model)
    # a background job ignores it, and with it all it starts
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    with tempfile.TemporaryDirectory(prefix="pg-") as place, postgres(Path(place)) as database:
        it = Site(folder, str(recipe), database)
        try:
            names = ("--prefect-port", "--port", "--page-port")
            it.up(*(word for name in names for word in (name, str(free_port()))))
            yield it
        finally:
            it.rlhf("down")
            signal.signal(signal.SIGINT, before)
