"""A registered version of each kind, made once, and pairs to ask it about."""

from pathlib import Path

import mlflow
import pytest
from passed_gate import DECISION

from rlhf_core.data.splits import load_split
from rlhf_core.data.tokenizer import load_tokenizer
from rlhf_core.modeling.models import load_scalar, save_model
from tasks.registry.packaging import VersionRecords, build


@pytest.fixture(scope="package")
def reward_folder(tiny_model, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reward") / "model"
    save_model(load_scalar(tiny_model, new_head=True, seed=3), load_tokenizer(tiny_model), folder)
    return folder


@pytest.fixture(scope="package")
def versions(tiny_model, reward_folder, tmp_path_factory) -> dict[str, Path]:
    """Return a version of each kind, by kind."""
    folder = tmp_path_factory.mktemp("versions")
    build("policy", tiny_model, folder / "policy", VersionRecords([DECISION], "# policy"))
    build("reward", reward_folder, folder / "reward", VersionRecords([DECISION], "# reward"))
    return {kind: folder / kind for kind in ("policy", "reward")}


@pytest.fixture(scope="package")
def policy(versions):
    return mlflow.pyfunc.load_model(str(versions["policy"]))


@pytest.fixture(scope="package")
def reward(versions):
    return mlflow.pyfunc.load_model(str(versions["reward"]))


@pytest.fixture(scope="package")
def pairs(tiny_splits) -> list[dict]:
    """Return more ragged pairs than go through the model at once."""
    rows = load_split(tiny_splits / "comparisons_heldout.jsonl")[:21]
    assert len({len(row["chosen"].split()) for row in rows}) > 4
    return rows
