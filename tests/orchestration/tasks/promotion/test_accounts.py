"""An MLflow server with accounts, set as in infra/compose: who may read, write and promote."""

import base64
import urllib.error
import urllib.request
from datetime import UTC, datetime
from pathlib import Path

import pytest
from accounts import become, guarded_server, password
from contests import contest_record
from mlflow import MlflowClient, MlflowException
from mlflow.server import get_app_client
from registrar import Registrar

from flows.cli.app import main
from rlhf_core.config import Registry
from rlhf_core.errors import BadInput
from rlhf_core.rundir import Artifact
from tasks.promotion.aliases import RegistryAliases
from tasks.promotion.eligibility import ApprovalMissing
from tasks.promotion.promotion import PromotionRequest, promote
from tasks.promotion.rights import require_rights
from tasks.records.approval_record import ApprovalRecord, VersionApproval, evidence_of
from tasks.records.workspace import Workspace
from tasks.tracking.client import connect

pytestmark = pytest.mark.slow  # a password is hashed with every request


@pytest.fixture(scope="module")
def guarded(empty_store, tmp_path_factory):
    """Yield the address of a server with the accounts of the workers and of a viewer."""
    folder = tmp_path_factory.mktemp("accounts")
    with guarded_server(empty_store, folder) as address, pytest.MonkeyPatch.context() as patch:
        become(patch, "admin")
        accounts = get_app_client("basic-auth", tracking_uri=address)
        for name in ("pipeline", "ann"):
            accounts.create_user(name, password(name))
        yield address


@pytest.fixture(scope="module")
def registered(guarded, tiny_models, tmp_path_factory):
    """The workers have registered two policies, and the first is champion."""
    home = tmp_path_factory.mktemp("workers")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", guarded)
        patch.setenv("RLHF_HOME", str(home))
        become(patch, "pipeline")
        registry = RegistryAliases(connect(guarded), Workspace(home), "tiny")
        registrar = Registrar(registry, tiny_models)
        registrar.add("reward", 1)
        registrar.policy(1)
        registrar.policy(2, beats="1")
        assert promote(registry, PromotionRequest(version="1")).promoted
        registrar.approval = VersionApproval(required=True, record=own_approval(registrar))
        registrar.policy(3, beats="1")
        yield registry


def own_approval(registrar: Registrar) -> ApprovalRecord:
    """Return an approval of policy 3 that nobody but its own pipeline has written."""
    digest, now = Artifact.of(registrar.models / "policy-3").digest, datetime.now(UTC)
    records = registrar.records("policy", digest)
    records.append(contest_record(digest, registrar.digests["policy", "1"], 0.7))
    return ApprovalRecord(
        evidence=evidence_of(digest, records),
        run="tiny-3",
        asked_at=now,
        until=now,
        state="approved",
        by="Ann",
        comment="reads well",
    )


@pytest.fixture
def viewer(registered, guarded, tmp_path, monkeypatch) -> MlflowClient:
    """Become Ann, whose account has no rights given."""
    monkeypatch.setenv("RLHF_HOME", str(tmp_path))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", guarded)
    become(monkeypatch, "ann")
    return connect(guarded)


def status(address: str, name: str | None, data: bytes | None = None) -> int:
    """Return the status of a GET, or with data of a PUT."""
    request = urllib.request.Request(address, data, method="PUT" if data else "GET")
    if name:
        words = base64.b64encode(f"{name}:{password(name)}".encode()).decode()
        request.add_header("Authorization", f"Basic {words}")
    try:
        return urllib.request.urlopen(request, timeout=30).status
    except urllib.error.HTTPError as error:
        return error.code


def test_a_viewer_sees_the_champion_and_loads_it(viewer, tmp_path):
    version = viewer.get_model_version_by_alias("tiny-policy", "champion")
    assert int(version.version) == 1
    import mlflow

    folder = mlflow.artifacts.download_artifacts(
        "models:/tiny-policy@champion", dst_path=str(tmp_path / "model")
    )
    assert (Path(folder) / "artifacts" / "model" / "model.safetensors").exists()


def test_a_viewer_cannot_promote_with_the_command(viewer, registered, capsys):
    before = [entry.number for entry in registered.ledger.entries()]
    with pytest.raises(SystemExit) as ended:
        raise SystemExit(main(["promote", "tiny", "2", "--reason", "I like it"]))
    assert ended.value.code == 3
    said = capsys.readouterr().err
    assert "Permission denied" in said and "an account with the role tiny-promoter" in said
    assert int(viewer.get_model_version_by_alias("tiny-policy", "champion").version) == 1
    assert [entry.number for entry in registered.ledger.entries()] == before


@pytest.mark.parametrize(
    "act",
    [
        lambda client: client.set_registered_model_alias("tiny-policy", "champion", "2"),
        lambda client: client.delete_registered_model_alias("tiny-policy", "champion"),
        lambda client: client.create_model_version("tiny-policy", "models:/tiny-policy/2"),
        lambda client: client.create_model_version("tiny-ledger", "models:/tiny-policy/2"),
        lambda client: client.set_model_version_tag("tiny-policy", "2", "verdicts", "{}"),
        lambda client: client.delete_model_version("tiny-policy", "1"),
        lambda client: client.rename_registered_model("tiny-policy", "mine"),
        lambda client: client.create_run(client.get_experiment_by_name("tiny").experiment_id),
    ],
    ids=[
        "move",
        "remove",
        "add a version",
        "add to the ledger",
        "change a record",
        "delete",
        "rename",
        "run",
    ],
)
def test_a_viewer_cannot_go_around_the_command(viewer, act):
    with pytest.raises(MlflowException, match=r"Permission denied|403"):
        act(viewer)
    assert int(viewer.get_model_version_by_alias("tiny-policy", "champion").version) == 1


def test_without_a_queue_of_approvals_the_files_of_the_pipeline_approve_nothing(
    registered, guarded, monkeypatch
):
    become(monkeypatch, "pipeline")
    expected = "no queue of approvals of tiny.*rlhf access setup tiny --approver"
    with pytest.raises(ApprovalMissing, match=f"Version 3 of tiny-policy is not.*{expected}"):
        promote(registered, PromotionRequest(version="3"))
    approval = {"required": True}
    with pytest.raises(BadInput, match=expected):  # before anything trains
        require_rights(guarded, Registry(name="tiny", approval=approval))
    require_rights(guarded, Registry(name="tiny"))


def test_without_an_account_nothing_is_shown(registered, guarded):
    assert status(f"{guarded}/api/2.0/mlflow/registered-models/search", None) == 401
    assert status(f"{guarded}/api/2.0/mlflow/registered-models/search", "ann") == 200


def test_artifacts_go_through_the_proxy_which_asks_for_the_account(viewer, guarded):
    source = viewer.get_model_version("tiny-policy", "1").source
    assert source.startswith("mlflow-artifacts:/")
    folder = f"{guarded}/api/2.0/mlflow-artifacts/artifacts"
    file = f"{folder}/{source.removeprefix('mlflow-artifacts:/')}/artifacts/model/config.json"
    assert status(file, "ann") == 200
    assert status(file, None) == 401
    assert status(file, "ann", b"{}") == 403
    assert status(file, None, b"{}") == 401
