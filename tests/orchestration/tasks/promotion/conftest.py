"""A registry with versions of every sort, made once: tiny real models, real gate records, a real
SQLite store.
"""

import contextlib
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlhf_core.gates.decide import Decision
from rlhf_core.rundir import Artifact, StageResult
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import WIN_RATE, contest_record
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.records.approval_record import SignOff
from tasks.records.run_record import Registration
from tasks.records.workspace import Workspace
from tasks.registry import versions
from tasks.tracking.client import client_for

STAGES = ("sft", "reward", "ppo", "evaluate")
PLACES = (  # where MLflow's database says where files lie
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
    ("experiments", "artifact_location"),
)


def gate(stage: str, model: str, **changes: object) -> Decision:
    """A record of one passed gate."""
    values = {
        "stage": stage,
        "gate": "g",
        "metric": f"{stage}/x",
        "value": 1.0,
        "n": 400,
        "interval": None,
        "bound": "at least",
        "threshold": 0.5,
        "passed": True,
        "reason": f"{stage}/x is 1, required at least 0.5",
        "model_digest": model,
    }
    return Decision(**values | changes)


@dataclass
class Shelf:
    """Registers models as the pipeline does."""

    registry: RegistryAliases
    models: Path
    digests: dict[tuple[str, str], str] = field(default_factory=dict)  # (kind, version) -> digest
    sign_off: SignOff = field(default_factory=SignOff)  # of what is registered next

    def add(
        self, kind: str, seed: int, decisions: list[Decision] | None = None, **tags: str
    ) -> str:
        """Register the model of this seed; its version."""
        artifact, client = Artifact.of(self.models / f"{kind}-{seed}"), self.registry.client
        experiment = client.get_experiment_by_name("tiny")
        remote = self.registry.workspace.tracking_uri.startswith("http")
        place = None if remote else (self.registry.workspace.artifacts / "tiny").as_uri()
        where = (
            experiment.experiment_id
            if experiment
            else client.create_experiment("tiny", artifact_location=place)
        )
        logged = client.create_logged_model(where, name=kind)
        wanted = Registration(
            model=self.registry.model(kind),
            stage=kind,
            artifact=artifact,
            tags={},
            card="# a card\n",
            decisions=self.records(kind, artifact.digest) if decisions is None else decisions,
            sign_off=self.sign_off,
        )
        versions.store_model(client, logged, wanted)
        version = versions.register(client, wanted, logged, {"digest": artifact.digest} | tags)
        self.digests[kind, version] = artifact.digest
        return version

    def policy(
        self, seed: int, *, reward: str = "1", beats: str | None = None, wins: float = 0.7
    ) -> str:
        """A policy that has passed every gate; beats: version that it was compared with."""
        digest = Artifact.of(self.models / f"policy-{seed}").digest
        records = self.records("policy", digest, reward)
        if beats:
            result = StageResult(
                stage="evaluate",
                digest="d",
                seconds=1.0,
                metrics={WIN_RATE: wins},
                counts={WIN_RATE: 256},
            )
            records.append(contest_record(result, digest, self.digests["policy", beats], 0.5))
        return self.add("policy", seed, records, reward_version=reward)

    def records(self, kind: str, digest: str, reward: str = "1") -> list[Decision]:
        """What the pipeline would hand over: every stage for a policy, its own for a reward model."""
        if kind == "reward":
            return [gate("reward", digest)]
        about = {"reward": self.digests["reward", reward], "ppo": digest, "evaluate": digest}
        return [gate(stage, about.get(stage, "sft")) for stage in STAGES]


@pytest.fixture(scope="session")
def tiny_models(tiny_model, tmp_path_factory) -> Path:
    """Folders policy-1 ... policy-5 and reward-1, reward-2: a smaller Llama, differently
    initialised.
    """
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for kind, auto, count in (
        ("policy", AutoModelForCausalLM, 5),
        ("reward", AutoModelForSequenceClassification, 2),
    ):
        for seed in range(1, count + 1):
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(tiny_model, num_labels=1)
            (
                config.hidden_size,
                config.intermediate_size,
                config.head_dim,
                config.num_hidden_layers,
            ) = (16, 32, 16, 1)
            auto.from_config(config).save_pretrained(folder / f"{kind}-{seed}")
            tokenizer.save_pretrained(folder / f"{kind}-{seed}")
    return folder


@pytest.fixture(scope="session")
def stock(tiny_models, tmp_path_factory, empty_store) -> Shelf:
    """Policies 1 (champion), 2 and 3 (both beat it), 4 (beats 2), 5 (loses to 1); reward models 1
    and 2 (policy 3's).
    """
    home = tmp_path_factory.mktemp("stock")
    shutil.copy(empty_store, home / "mlflow.db")
    workspace = Workspace(home)
    with (
        pytest.MonkeyPatch.context() as patch
    ):  # no monkeypatch of a single test reaches a fixture of the session
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        shelf = Shelf(
            RegistryAliases(client_for(workspace.tracking_uri), workspace, "tiny"), tiny_models
        )
        fill(shelf)
    return shelf


def fill(shelf: Shelf) -> None:
    for seed in (1, 2):
        shelf.add("reward", seed)
    shelf.policy(1)
    shelf.policy(2, beats="1")
    shelf.policy(3, beats="1", reward="2")
    shelf.policy(4, beats="2")
    shelf.policy(5, beats="1", wins=0.4)
    promote(shelf.registry, PromotionRequest(version="1"))


@pytest.fixture
def shelf(stock, tmp_path, monkeypatch) -> Shelf:
    """A copy of the stock, to be changed at will."""
    home, old = tmp_path / "home", stock.registry.workspace.home
    shutil.copytree(old / "mlartifacts", home / "mlartifacts", copy_function=os.link)
    shutil.copy(old / "mlflow.db", home / "mlflow.db")
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as store, store:
        for table, column in PLACES:
            store.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(home))
            )
    monkeypatch.setenv("RLHF_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    workspace = Workspace(home)
    return Shelf(
        RegistryAliases(client_for(workspace.tracking_uri), workspace, "tiny"),
        stock.models,
        dict(stock.digests),
    )


@pytest.fixture(scope="session")
def shelf_type() -> type[Shelf]:
    """For a registry elsewhere, e.g. on a server."""
    return Shelf


@pytest.fixture
def registry(shelf) -> RegistryAliases:
    return shelf.registry


class Promoters:
    """Real processes that promote, forked by one that has the libraries loaded (see promoter.py)."""

    def __init__(self) -> None:
        program = str(Path(__file__).parent / "promoter.py")
        self.server = subprocess.Popen(
            [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert self.server.stdout.readline() == "ready\n"

    def run(self, registry: RegistryAliases, *jobs: dict) -> list[dict]:
        """Run the jobs at once, each in its own process. A result: promoted, reason, error, kind of
        error, exit code.
        """
        uri = registry.client.tracking_uri
        environment = {
            "RLHF_HOME": str(registry.workspace.home),
            "MLFLOW_TRACKING_URI": uri,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "30",
        }
        self.server.stdin.write(
            json.dumps({"name": registry.name, "environment": environment, "jobs": jobs}) + "\n"
        )
        self.server.stdin.flush()
        return json.loads(self.server.stdout.readline())


@pytest.fixture(scope="session")
def promoters():
    started = Promoters()
    yield started
    started.server.stdin.close()
    started.server.wait(60)  # its libraries take long to leave on a busy machine


@pytest.fixture(scope="session")
def mlflow_server():
    """Start a real MLflow server: a context manager of (folder, port) that gives a function to
    signal its process group.

    words, environment: further ones for the server.
    """

    @contextlib.contextmanager
    def serve(folder: Path, port: int, *words: str, **environment: str):
        arguments = [
            "--backend-store-uri",
            f"sqlite:///{folder}/db",
            "--artifacts-destination",
            str(folder / "artifacts"),
        ]
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "mlflow",
                "server",
                *arguments,
                "--port",
                str(port),
                "--workers",
                "1",
                *words,
            ],
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

    return serve
