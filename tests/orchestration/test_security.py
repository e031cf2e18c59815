"""Secrets appear in no store, a recipe stays within the folders that it may read, and no recipe
makes code of a model run.
"""

import os
import re
import typing
from pathlib import Path

import pytest
from command_line import rlhf_exit_code
from pydantic import BaseModel

from rlhf_core.config import Recipe
from rlhf_core.config.load import load_recipe
from rlhf_core.errors import BadInput, ConfigError, GateRefused
from rlhf_core.rundir import Artifact
from tasks.run_context import check_paths
from tasks.stages import validate
from tasks.stages.spec import local, model_folder, source_of

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
    assert (home / "mlflow.db").exists() and holding(
        home, b"tiny-policy"
    )  # the search does find what is there
    for place in (home, Path(os.environ["PREFECT_HOME"])):
        assert holding(place, CANARY) == []
    said = "".join(capfd.readouterr()) + caplog.text
    assert main_error == 2 and CANARY.decode() not in said


# paths


@pytest.fixture
def confined(tmp_path, monkeypatch) -> Path:
    """The only folder that recipes may read."""
    root = tmp_path / "allowed"
    root.mkdir()
    monkeypatch.setenv("RLHF_ALLOWED_ROOTS", f"{root}:{tmp_path / 'more'}")
    return root


def test_on_a_laptop_files_may_lie_anywhere(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_ALLOWED_ROOTS", raising=False)
    (tmp_path / "a.jsonl").touch()
    assert local("data.comparisons", str(tmp_path / "a.jsonl")) == tmp_path / "a.jsonl"


def test_files_below_an_allowed_folder_are_read(confined, tmp_path):
    (tmp_path / "more").mkdir()
    for path in (confined / "a.jsonl", tmp_path / "more" / "b.jsonl"):
        path.touch()
        assert local("data.comparisons", str(path)) == path


@pytest.mark.parametrize("how", ["absolute", "dots", "link", "prefix", "relative"])
def test_files_elsewhere_are_refused_however_they_are_named(confined, tmp_path, monkeypatch, how):
    outside = tmp_path / "outside.jsonl"
    outside.touch()
    (tmp_path / "allowed-too").mkdir()
    (tmp_path / "allowed-too" / "a.jsonl").touch()
    (confined / "link").symlink_to(outside)
    monkeypatch.chdir(tmp_path)
    text = {
        "absolute": str(outside),
        "dots": str(confined / ".." / "outside.jsonl"),
        "link": str(confined / "link"),
        "prefix": str(tmp_path / "allowed-too" / "a.jsonl"),
        "relative": "outside.jsonl",
    }[how]
    with pytest.raises(
        BadInput, match=r"data\.comparisons leads to .* outside .*RLHF_ALLOWED_ROOTS"
    ):
        local("data.comparisons", text)


def test_models_elsewhere_are_refused_before_anything_runs(make_recipe, confined, tiny_model):
    with pytest.raises(BadInput, match=r"model\.base leads to .* outside"):
        check_paths(make_recipe())
    with pytest.raises(BadInput, match="outside"):
        model_folder("model.sft", "/etc")


def test_a_function_of_the_system_is_no_scorer_there(confined):
    with pytest.raises(BadInput, match="outside"):
        source_of("evaluate.independent", "shutil:rmtree")
    assert (
        source_of("evaluate.independent", "rlhf_core.quickstart.utility:score").path.name
        == "utility.py"
    )


def test_a_folder_here_cannot_pose_as_a_hub_name(make_recipe, confined, tmp_path, monkeypatch):
    (tmp_path / "org" / "data").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    data = {"demonstrations": {"path": "org/data", "format": "hub"}, "comparisons": "c.jsonl"}
    with pytest.raises(BadInput, match="outside"):
        validate.spec(make_recipe(data=data), {"base": Artifact(path=tmp_path, digest="d")})


@pytest.mark.parametrize("path", ["{prepared}/../../other/rows.jsonl", "{prepared}/link"])
def test_prepared_files_do_not_lead_out_of_their_folder_anywhere(make_recipe, tmp_path, path):
    (tmp_path / "run" / "files").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "rows.jsonl").touch()
    (tmp_path / "run" / "files" / "link").symlink_to(tmp_path / "other" / "rows.jsonl")
    have = {
        name: Artifact(path=tmp_path / "run" / "files", digest="d") for name in ("base", "files")
    }
    with pytest.raises(BadInput, match="leads out of"):
        validate.spec(make_recipe(data={"demonstrations": path, "comparisons": path}), have)


# code of models


def sections(kind: type[BaseModel]) -> dict[str, type]:
    """Every key of a recipe and its type, dotted."""
    found = {}
    for name, field in kind.model_fields.items():
        found[name] = field.annotation
        for inner in (field.annotation, *typing.get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                found |= {f"{name}.{key}": value for key, value in sections(inner).items()}
    return found


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
