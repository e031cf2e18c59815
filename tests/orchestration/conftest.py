"""A workspace and a recipe for every test, the `rlhf` command, and registered models.

All tests share one Prefect home. A small real program stands in place of the core.
"""

import atexit
import contextlib
import importlib
import json
import os
import shutil
import sqlite3
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from command_line import rlhf_exit_code
from s3_server import S3Server, s3_server

if TYPE_CHECKING:
    from registrar import Registrar
    from synthetic import Synthetic

    from rlhf_core.config import Recipe
    from tasks.promotion.aliases import RegistryAliases

# a worker of pytest-xdist inherits that of the process that started it
if "PREFECT_HOME" not in os.environ or "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["PREFECT_HOME"] = tempfile.mkdtemp(prefix="prefect-")
    # registered first, so that it runs after Prefect has ended its server
    atexit.register(shutil.rmtree, os.environ["PREFECT_HOME"], ignore_errors=True)
importlib.import_module("flows")  # applies the settings that Prefect reads when it is imported

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "runs" / "stage_program.py"
RECIPE = """
name = "tiny"
description = "Two files"
model.base = "{base}"
data.demonstrations = "{folder}/d.jsonl"
data.comparisons = "{folder}/c.jsonl"
registry.name = "tiny"
"""
PLACES = (  # the columns of MLflow's database that name places of files
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
    ("logged_models", "artifact_location"),
    ("experiments", "artifact_location"),
)


# a workspace


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """Make an MLflow database without a run, once: its migrations take seconds."""
    from mlflow import MlflowClient

    file = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{file}").search_experiments()
    return file


@pytest.fixture
def home(tmp_path, monkeypatch, empty_store) -> Path:
    """A workspace without a run, and no tracking server but its own store."""
    home = tmp_path / "home"
    home.mkdir()
    shutil.copy(empty_store, home / "mlflow.db")
    monkeypatch.setenv("RLHF_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return home


@pytest.fixture
def rlhf(home, capfd) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process.

    Give a function of words that returns the exit code, standard output and standard error.
    """
    return lambda *words: (rlhf_exit_code(*words), *capfd.readouterr())


@pytest.fixture(scope="session")
def s3(tmp_path_factory) -> Iterator[S3Server]:
    """A real S3 server with the bucket `team`."""
    with s3_server(tmp_path_factory.mktemp("s3")) as server:
        yield server


# the stage program and recipes that it runs


@pytest.fixture(scope="session")
def ready_models(tiny_model, tmp_path_factory) -> Path:
    """Make language models `ppo` and `dpo` and a reward model `reward`.

    They are real: promotion loads and runs them.
    """
    from rlhf_core.data.tokenizer import load_tokenizer
    from rlhf_core.modeling.models import load_scalar, save_model

    folder = tmp_path_factory.mktemp("ready")
    shutil.copytree(tiny_model, folder / "ppo")
    shutil.copytree(tiny_model, folder / "dpo")
    save_model(
        load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), folder / "reward"
    )
    return folder


@pytest.fixture
def command(tmp_path, ready_models) -> tuple[str, ...]:
    """The command of the stage program; `plan.json` beside it says how it behaves."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "models").symlink_to(ready_models)
    shutil.copy(PROGRAM, folder / "stage.py")
    (folder / "plan.json").write_text("{}")
    return (sys.executable, str(folder / "stage.py"))


@pytest.fixture
def plan(command) -> Callable[..., int]:
    """Say how the stage program behaves, by stage, e.g. sft={"crash": True}."""
    return lambda **stages: (Path(command[1]).parent / "plan.json").write_text(json.dumps(stages))


@pytest.fixture
def stage_program(command, monkeypatch) -> tuple[str, ...]:
    """Run the stage program in place of `python -m rlhf_core`; its command."""
    from tasks.execution import stage_process

    monkeypatch.setattr(stage_process, "COMMAND", command)
    return command


@pytest.fixture
def data_files(tmp_path) -> Path:
    """A folder with demonstrations `d.jsonl` and comparisons `c.jsonl` of one row each."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    for name in ("d", "c"):
        (folder / f"{name}.jsonl").write_text('{"prompt": "p"}\n')
    return folder


@pytest.fixture
def recipe_file(tmp_path, tiny_model, data_files, stage_program) -> Path:
    """A recipe `tiny` on files of its own, run by the stage program."""
    file = tmp_path / "tiny.toml"
    file.write_text(RECIPE.format(folder=data_files, base=tiny_model))
    return file


@pytest.fixture
def make_recipe(home, tiny_model, data_files, stage_program) -> Callable[..., "Recipe"]:
    """Make recipes `tiny` on files of their own, run by the stage program.

    Keywords replace whole sections.
    """
    from rlhf_core.config import Recipe

    values = {
        "name": "tiny",
        "model": {"base": str(tiny_model)},
        "registry": {"name": "tiny"},
        "data": {
            "demonstrations": str(data_files / "d.jsonl"),
            "comparisons": str(data_files / "c.jsonl"),
        },
    }
    return lambda **changes: Recipe.model_validate(values | changes)


# runs without training


@pytest.fixture
def synthetic(home, tmp_path) -> "Synthetic":
    """Write runs into the workspace that were never trained."""
    from synthetic import Synthetic

    from tasks.records.workspace import Workspace

    return Synthetic(Workspace(home), tmp_path)


# registered models


@pytest.fixture(scope="session")
def tiny_models(tiny_model, tmp_path_factory) -> Path:
    """Make folders policy-1 ... policy-5, reward-1 and reward-2: a smaller Llama each."""
    import torch
    from transformers import (
        AutoConfig,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        AutoTokenizer,
    )

    from rlhf_core.file_modes import follow_umask

    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    for kind, auto, count in (
        ("policy", AutoModelForCausalLM, 5),
        ("reward", AutoModelForSequenceClassification, 2),
    ):
        for seed in range(1, count + 1):
            torch.manual_seed(seed)
            config = AutoConfig.from_pretrained(tiny_model, num_labels=1)
            config.hidden_size, config.intermediate_size = 16, 32
            config.head_dim, config.num_hidden_layers = 16, 1
            auto.from_config(config).save_pretrained(folder / f"{kind}-{seed}")
            tokenizer.save_pretrained(folder / f"{kind}-{seed}")
    follow_umask(folder)
    return folder


@pytest.fixture(scope="session")
def filled_registrar(tiny_models, tmp_path_factory, empty_store) -> "Registrar":
    """Make a registry with versions of every sort once, as `registrar.fill` says."""
    from registrar import Registrar, fill

    from tasks.promotion.aliases import RegistryAliases
    from tasks.records.workspace import Workspace
    from tasks.tracking.client import connect

    home = tmp_path_factory.mktemp("registry")
    shutil.copy(empty_store, home / "mlflow.db")
    workspace = Workspace(home)
    # no monkeypatch of a single test reaches a fixture of the session
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registrar = Registrar(
            RegistryAliases(connect(workspace.tracking_uri), workspace, "tiny"), tiny_models
        )
        fill(registrar)
    return registrar


@pytest.fixture
def registrar(filled_registrar, home) -> "Registrar":
    """The workspace with a copy of the filled registry, for one test to change."""
    from registrar import Registrar

    from tasks.promotion.aliases import RegistryAliases
    from tasks.records.workspace import Workspace
    from tasks.tracking.client import connect

    old, workspace = filled_registrar.registry.workspace.home, Workspace(home)
    shutil.copytree(old / "mlartifacts", home / "mlartifacts", copy_function=os.link)
    shutil.copy(old / "mlflow.db", home / "mlflow.db")
    with contextlib.closing(sqlite3.connect(home / "mlflow.db")) as store, store:
        for table, column in PLACES:
            store.execute(
                f"UPDATE {table} SET {column} = replace({column}, ?, ?)", (str(old), str(home))
            )
    registry = RegistryAliases(connect(workspace.tracking_uri), workspace, "tiny")
    return Registrar(registry, filled_registrar.models, dict(filled_registrar.digests))


@pytest.fixture
def registry(registrar) -> "RegistryAliases":
    return registrar.registry


@pytest.fixture
def real_recipe(tmp_path, tiny_model) -> Path:
    """A recipe on the tiny model and 60 prompts, whose stages are the core's."""
    prompts = [f"w{i % 50} w{i // 50}" for i in range(60)]
    demonstrations = [{"prompt": prompt, "response": f"{prompt} w1"} for prompt in prompts]
    pairs = [{"prompt": each, "chosen": "w1 w2", "rejected": "w3 w4 w5"} for each in prompts]
    for name, rows in (("d", demonstrations), ("c", pairs)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (tmp_path / f"{name}.jsonl").write_text(lines)
    file = tmp_path / "tiny.toml"
    file.write_text(
        f"""
name = "tiny"
model.base = "{tiny_model}"
registry.name = "tiny"
[data]
demonstrations = "{tmp_path}/d.jsonl"
comparisons = "{tmp_path}/c.jsonl"
heldout_fraction = 0.2
rules = {{min_demonstrations = 5, min_comparisons = 5, min_heldout = 1}}
"""
    )
    return file
