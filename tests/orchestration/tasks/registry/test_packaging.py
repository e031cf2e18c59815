"""Registered models are standard MLflow models: their files, and how the files get there."""

import os
import shutil
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path

import mlflow
import numpy as np
import pytest
from mlflow import MlflowClient
from mlflow.models import Model
from mlflow_server import mlflow_server
from passed_gate import DECISION
from plain_answers import plain_replies, project_scores
from recipes import tiny_recipe
from registrar import Registrar
from s3_server import s3_server
from safetensors.numpy import save_file

from flows.platform.pages import free_port
from rlhf_core.digest import digest_path
from rlhf_core.errors import BadInput
from rlhf_core.modeling.pickles import PICKLE_SUFFIXES
from rlhf_core.rundir import Artifact, StageResult
from tasks.promotion.aliases import RegistryAliases
from tasks.records.run_record import Record, Registration
from tasks.records.workspace import Workspace
from tasks.registry import frame
from tasks.registry.fetching import fetch
from tasks.registry.packaging import VersionRecords, build, model_folder, read_decisions
from tasks.tracking.tracker import Tracker

MIB = 2**20
SIGNED = "X-Amz-Signature"  # in an address that the server has signed for somebody else
ROOT = Path(__file__).resolve().parents[4]
RECIPE = tiny_recipe()


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_version_is_a_complete_mlflow_model_without_pickles(kind, versions):
    root = versions[kind]
    meta = Model.load(str(root))
    assert meta.signature.inputs.input_names()[0] == "messages" and meta.signature.outputs
    pins = (root / "requirements.txt").read_text().split()
    assert pins == [
        f"{name}=={version(name).split('+')[0]}" for name in ("mlflow", "torch", "transformers")
    ]
    files = [file for file in root.rglob("*") if file.is_file()]
    assert not [file for file in files if file.suffix in PICKLE_SUFFIXES]
    assert (
        meta.model_size_bytes > (root / "artifacts" / "model" / "model.safetensors").stat().st_size
    )
    assert read_decisions(root) == [DECISION] and (root / "README.md").read_text() == f"# {kind}"


def test_several_that_store_a_version_anew_at_once_leave_it_whole(tiny_model, tmp_path):
    target = tmp_path / "version"
    records = VersionRecords([DECISION], "# policy")
    build("policy", tiny_model, target, records)
    config = model_folder(target) / "config.json"
    config.unlink()  # a link to the model's own file
    config.write_text("damaged")
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(lambda _: build("policy", tiny_model, target, records), range(4)))
    assert digest_path(model_folder(target)) == digest_path(tiny_model)
    assert {file.name for file in tmp_path.iterdir()} == {"version", ".version.lock"}
    assert "dbutils" not in sys.modules  # MLflow's stand-in, while it loads a model's code


WITHOUT_PROJECT = """
import sys
sys.modules.update(dict.fromkeys(("flows", "tasks", "rlhf_core")))  # an import of them fails
import mlflow
model = mlflow.pyfunc.load_model(sys.argv[1])
print(model.predict(model.input_example))
"""


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_a_version_is_loaded_without_the_project(kind, versions, tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PROJECT, str(versions[kind])],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout.strip(), done.stderr


def test_pickles_are_refused_when_a_version_is_made_and_when_it_is_loaded(
    tiny_model, versions, tmp_path
):
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x04.")
    with pytest.raises(BadInput, match=r"pytorch_model\.bin.*safetensors only"):
        build("policy", folder, tmp_path / "version", VersionRecords())
    assert not (tmp_path / "version").exists()
    shutil.copytree(versions["policy"], tmp_path / "copy")
    shutil.copy(folder / "pytorch_model.bin", tmp_path / "copy" / "artifacts" / "model")
    with pytest.raises(Exception, match="expected safetensors only"):
        mlflow.pyfunc.load_model(str(tmp_path / "copy"))


def bytes_on_disk(*folders: Path) -> int:
    """Return the bytes of files together; a hard-linked file counts once."""
    stats = [file.stat() for folder in folders for file in folder.rglob("*") if file.is_file()]
    return sum({(stat.st_dev, stat.st_ino): stat.st_size for stat in stats}.values())


def test_weights_are_stored_once_however_often_a_version_is_made(tiny_model, tmp_path):
    source, target = tmp_path / "run" / "model", tmp_path / "store" / "artifacts"
    shutil.copytree(tiny_model, source)
    (source / "config.json").rename(tmp_path / "run" / "blob")
    (source / "config.json").symlink_to("../blob")  # as in a hub's cache
    alone = bytes_on_disk(source)
    build("policy", source, target, VersionRecords([], "first"))
    both = bytes_on_disk(tmp_path)
    assert both - alone < 100_000 < alone  # code, records and card
    weights = target / "artifacts" / "model" / "model.safetensors"
    assert (
        weights.stat().st_ino == (source / "model.safetensors").stat().st_ino
        and weights.stat().st_nlink == 2
    )
    build("policy", source, target, VersionRecords([DECISION], "second"))
    assert abs(bytes_on_disk(tmp_path) - both) < 2_000
    assert read_decisions(target) == [DECISION] and (target / "README.md").read_text() == "second"
    assert digest_path(model_folder(target)) == digest_path(source)
    assert not (target / "artifacts" / "model" / "config.json").is_symlink()
    assert {path.name for path in target.parent.iterdir()} == {"artifacts", ".artifacts.lock"}


def test_weights_that_their_owner_alone_may_read_are_registered_as_the_umask_says(
    tiny_model, tmp_path
):
    source = tmp_path / "given"
    shutil.copytree(tiny_model, source)
    (source / "model.safetensors").chmod(0o600)
    before = os.umask(0o022)
    try:
        build("policy", source, tmp_path / "version", VersionRecords())
    finally:
        os.umask(before)
    stored = tmp_path / "version" / "artifacts" / "model"
    assert {oct(file.stat().st_mode & 0o777) for file in stored.iterdir()} == {"0o644"}
    # the user's own file is the user's affair
    assert (source / "model.safetensors").stat().st_mode & 0o777 == 0o600


def test_making_a_version_again_mends_its_code_and_its_weights(tiny_model, tmp_path):
    target = tmp_path / "version"
    build("policy", tiny_model, target, VersionRecords())
    code = (target / "policy_model.py").read_text()
    (target / "policy_model.py").write_text("raise SystemExit('not what was registered')")
    build("policy", tiny_model, target, VersionRecords())
    assert (target / "policy_model.py").read_text() == code
    weights = target / "artifacts" / "model" / "model.safetensors"
    weights.unlink()
    weights.write_bytes(b"other bytes")
    build("policy", tiny_model, target, VersionRecords())
    assert digest_path(model_folder(target)) == digest_path(tiny_model)


def test_a_flat_version_of_before_is_read_and_then_made_anew(tiny_model, tmp_path):
    flat = tmp_path / "version"
    shutil.copytree(tiny_model, flat)
    assert model_folder(flat) == flat and read_decisions(flat) == []
    build("policy", tiny_model, flat, VersionRecords([DECISION], ""))
    assert (
        model_folder(flat) == flat / "artifacts" / "model" and not (flat / "config.json").exists()
    )


KILLED = """
import os, signal, sys
from pathlib import Path
from tasks.registry.packaging import VersionRecords, build
die = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
build("policy", Path(sys.argv[1]), Path(sys.argv[2]), VersionRecords(), place=die)
"""


def test_a_killed_registration_leaves_nothing_half_made(tiny_model, tmp_path):
    target = tmp_path / "version"
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_model), str(target)], cwd=ROOT, capture_output=True
    )
    assert killed.returncode == -signal.SIGKILL and not target.exists()
    build("policy", tiny_model, target, VersionRecords())
    assert mlflow.pyfunc.load_model(str(target)).predict(
        frame.EXAMPLES["policy"], params={"max_tokens": 1}
    )


@pytest.mark.parametrize(
    "text", ["", "{}", '{"decisions": 3}', '{"decisions": [{"stage": "reward"}]}']
)
def test_decisions_that_cannot_be_read_are_bad_input(text, tmp_path):
    (tmp_path / "gates.json").write_text(text)
    with pytest.raises(BadInput, match="does not hold gate decisions"):
        read_decisions(tmp_path)


def register(tracker: Tracker, name: str, folder: Path, note: str) -> None:
    """End a stage and have its model registered, as a pipeline does."""
    run = tracker.workspace.runs / name
    run.mkdir(parents=True, exist_ok=True)
    (run / "result.json").write_text(
        StageResult(stage=name, digest="d", seconds=1.0).model_dump_json()
    )
    tracker.stage_started(name, run, cached=False)
    tracker.stage_ended(name, status="FINISHED")
    wanted = Registration(
        model=f"tiny-{name}",
        stage=name,
        artifact=Artifact.of(folder),
        tags={},
        decisions=[DECISION],
        note=note,
        card=note,
    )
    tracker.register(wanted)
    assert tracker.retry(), tracker.problem


def test_champions_load_by_alias_from_a_sqlite_registry(home, tiny_model, reward_folder, pairs):
    workspace = Workspace.here()
    tracker = Tracker(workspace, Record.new(workspace, RECIPE))
    for name, folder in (("policy", tiny_model), ("reward", reward_folder)):
        register(tracker, name, folder, f"card of {name}")
        tracker.client.set_registered_model_alias(f"tiny-{name}", "champion", "1")
    version = tracker.client.get_model_version_by_alias("tiny-policy", "champion")
    assert version.description == "card of policy" and version.tags["digest"] == digest_path(
        tiny_model
    )
    champion = mlflow.pyfunc.load_model("models:/tiny-policy@champion")
    replies = champion.predict({"messages": pairs[0]["prompt"]}, params={"max_tokens": 12})
    assert replies == plain_replies(tiny_model, pairs[:1], 12)
    scores = mlflow.pyfunc.load_model("models:/tiny-reward@champion").predict(pairs)
    assert scores["chosen_score"].tolist() == pytest.approx(
        project_scores(reward_folder, pairs, "chosen"), abs=1e-5
    )
    again = bytes_on_disk(workspace.artifacts)
    for name, folder in (("policy", tiny_model), ("reward", reward_folder)):
        register(tracker, name, folder, "renewed")
    assert abs(bytes_on_disk(workspace.artifacts) - again) < 2_000
    version = tracker.client.get_model_version_by_alias("tiny-policy", "champion")
    assert int(version.version) == 1 and version.description == "renewed"


@pytest.mark.parametrize("kind", ["policy", "reward"])
def test_other_bytes_than_those_registered_are_not_loaded(versions, kind, tmp_path):
    folder = tmp_path / "version"
    shutil.copytree(versions[kind], folder)
    assert mlflow.pyfunc.load_model(str(folder))
    (folder / "artifacts/model/config.json").write_text(
        (folder / "artifacts/model/config.json").read_text() + " "
    )
    with pytest.raises(Exception, match=r"has digest [0-9a-f]{12}, registered was [0-9a-f]{12}"):
        mlflow.pyfunc.load_model(str(folder))


# through MLflow's artifact proxy, on an S3 server


@pytest.fixture
def s3(tmp_path, monkeypatch):
    with s3_server(tmp_path) as found:
        found.use(monkeypatch)
        yield found


@pytest.mark.slow
@pytest.mark.parametrize("parts", [False, True], ids=["through the server", "in parts"])
def test_a_model_behind_mlflows_proxy_comes_back_with_its_bytes(s3, tmp_path, monkeypatch, parts):
    models = tmp_path / "models"
    weights = {"w": np.arange(3 * MIB, dtype=np.float32)}  # 12 MiB
    (models / "policy-1").mkdir(parents=True)
    save_file(weights, models / "policy-1" / "model.safetensors")
    (models / "policy-1" / "config.json").write_text("{}", encoding="utf-8")
    port = free_port()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    for way in ("UPLOAD", "DOWNLOAD"):
        monkeypatch.setenv(f"MLFLOW_ENABLE_PROXY_MULTIPART_{way}", str(parts).lower())
        monkeypatch.setenv(f"MLFLOW_MULTIPART_{way}_CHUNK_SIZE", str(5 * MIB))
    monkeypatch.setenv("MLFLOW_MULTIPART_UPLOAD_MINIMUM_FILE_SIZE", str(10 * MIB))
    with mlflow_server(tmp_path, port, "--artifacts-destination", f"s3://{s3.bucket}/mlflow"):
        workspace = Workspace(tmp_path / "home")
        client = MlflowClient()
        registrar = Registrar(RegistryAliases(client, workspace, "tiny"), models)
        version = registrar.add("policy", 1, decisions=[])
        found = fetch(workspace, client.get_model_version("tiny-policy", version))
    assert found.digest == digest_path(models / "policy-1")
    asked = [line for line in s3.log.read_text().splitlines() if "model.safetensors" in line]
    put = [line for line in asked if '"PUT' in line and SIGNED in line]
    got = [line for line in asked if '"GET' in line and SIGNED in line]
    assert (len(put), len(got)) == ((3, 3) if parts else (0, 0))
