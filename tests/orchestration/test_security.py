"""Secrets appear in no store, and no recipe makes code of a model run."""

import os
import re
import typing
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import rlhf_exit_code
from pydantic import BaseModel

from rlhf_core.config import Recipe
from rlhf_core.config.load import load_recipe
from rlhf_core.errors import ConfigError, GateRefused

SECRETS = {
    "JUDGE_API_KEY": "canary-judge-4be1",
    "MLFLOW_TRACKING_PASSWORD": "canary-mlflow-90ac",
    "HF_TOKEN": "canary-hub-5d5e",
    "MLFLOW_TRACKING_USERNAME": "worker",
    "AWS_SECRET_ACCESS_KEY": "canary-s3-77d2",
    "PGPASSWORD": "canary-pg-c3b8",
    "PREFECT_API_AUTH_STRING": "user:canary-prefect-1f05",
}


CANARY = b"canary-"


@pytest.fixture
def secrets(monkeypatch) -> None:
    """Set every secret in the environment."""
    for name, value in SECRETS.items():
        monkeypatch.setenv(name, value)


def holding(folder: Path, needle: bytes) -> list[str]:
    """Files below a folder that hold some bytes, databases and their journals too."""
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return [str(path) for path in files if needle in path.read_bytes()]


@pytest.mark.slow
def test_no_secret_of_the_environment_is_in_any_store_after_runs_that_finish_refuse_and_crash(
    make_recipe, home, plan, secrets, capfd, caplog
):
    from flows.pipeline import run_pipeline

    assert run_pipeline(make_recipe()).promotion.promoted
    plan(reward={"metrics": {"reward/accuracy": 0.1}})
    with pytest.raises(GateRefused):
        run_pipeline(make_recipe(seed=2))
    plan(sft={"crash": True})
    run_pipeline(make_recipe(seed=3), until="sft")
    main_error = rlhf_exit_code("run", "no-such-recipe")
    # the search does find what is there
    assert (home / "mlflow.db").exists() and holding(home, b"tiny-policy")
    for place in (home, Path(os.environ["PREFECT_HOME"])):
        assert holding(place, CANARY) == []
    said = "".join(capfd.readouterr()) + caplog.text
    assert main_error == 2 and CANARY.decode() not in said


def sections(kind: type[BaseModel]) -> dict[str, type]:
    """Every key of a recipe and its type, dotted."""
    found = {}
    for name, field in kind.model_fields.items():
        found[name] = field.annotation
        for inner in kinds(field.annotation):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= {f"{name}.{key}": value for key, value in sections(inner).items()}
    return found


def kinds(annotation: object) -> Iterator[object]:
    """Yield an annotation and all that it is made of, as in `Annotated[A | None, ...]`."""
    yield annotation
    for part in typing.get_args(annotation):
        yield from kinds(part)


def test_no_key_of_a_recipe_lets_a_models_code_run():
    keys = sections(Recipe)
    assert "ppo.beta" in keys and "data.comparisons.path" in keys
    assert not [key for key in keys if "remote" in key or "trust" in key]
    with pytest.raises(ConfigError, match="there is no such key"):
        load_recipe("quickstart", ["model.trust_remote_code=true"])


def test_trust_remote_code_stands_in_the_source_as_false_only():
    root = Path(__file__).resolve().parents[2]
    files = [
        file
        for layer in ("flows", "tasks", "rlhf_core", "mlflow")
        for file in (root / layer).rglob("*.py")
    ]
    mentions = [
        line.strip()
        for file in files
        for line in file.read_text().splitlines()
        if "trust_remote_code" in line
    ]
    assert len(mentions) >= 4
    assert all(re.search(r'trust_remote_code(=|": )False', line) for line in mentions)
