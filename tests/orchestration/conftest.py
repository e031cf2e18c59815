"""A workspace of its own for every test, one Prefect home for all, and a small real program in
place of the core.
"""

import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest

os.environ.setdefault("PREFECT_HOME", tempfile.mkdtemp(prefix="prefect-"))

PROGRAM = Path(__file__).resolve().parents[1] / "support" / "stage_program.py"


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory) -> Path:
    """An MLflow database without a run, made once: its migrations take seconds."""
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


@pytest.fixture(scope="session")
def ready_models(tiny_model, tmp_path_factory) -> Path:
    """Language models `ppo` and `dpo` and a reward model `reward`: real ones, for promotion loads
    and runs them.
    """
    from rlhf_core.modeling.models import load_scalar, load_tokenizer, save_model

    folder = tmp_path_factory.mktemp("ready")
    shutil.copytree(tiny_model, folder / "ppo")
    shutil.copytree(tiny_model, folder / "dpo")
    save_model(
        load_scalar(tiny_model, new_head=True), load_tokenizer(tiny_model), folder / "reward"
    )
    return folder


@pytest.fixture
def command(tmp_path, ready_models) -> tuple[str, ...]:
    """The stage program; `plan.json` beside it says how it is to behave."""
    folder = tmp_path / "program"
    folder.mkdir()
    (folder / "models").symlink_to(ready_models)
    shutil.copy(PROGRAM, folder / "stage.py")
    (folder / "plan.json").write_text("{}")
    return (sys.executable, str(folder / "stage.py"))
