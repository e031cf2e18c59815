"""RLHF_REMOTE: what it may be, and a bucket of a real S3 server that refuses or is away."""

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from mirrored_runs import NAME, SPEC, content, finished_run, remote_in
from s3_server import forget_clients

from rlhf_core.errors import BadInput
from tasks.execution.stage_process import finished
from tasks.mirror.arrival import arrive
from tasks.mirror.remote import Remote
from tasks.mirror.uploader import Upload
from tasks.records.workspace import Workspace, first_template_date


@pytest.fixture
def bucket(s3, monkeypatch):
    """Set the variables of S3's clients and RLHF_REMOTE."""
    s3.use(monkeypatch)
    monkeypatch.setenv("RLHF_REMOTE", "s3://team/rlhf/")


def test_without_the_variable_there_is_no_remote(monkeypatch):
    monkeypatch.delenv("RLHF_REMOTE", raising=False)
    assert Remote.here() is None


@pytest.mark.parametrize("value", ["/disk/rlhf", "team/rlhf"])
def test_a_path_is_refused(monkeypatch, value):
    monkeypatch.setenv("RLHF_REMOTE", value)
    with pytest.raises(BadInput, match="expected an address such as s3://bucket/folder"):
        Remote.here()


def test_a_finished_stage_goes_over_a_real_server_and_comes_back(bucket, tmp_path):
    remote = Remote.here()
    assert remote and remote.address == "s3://team/rlhf"
    remote.require_usable()
    there, here = finished_run(tmp_path / "there"), tmp_path / "here" / NAME
    here.mkdir(parents=True)
    Upload(there, SPEC.digest).run(remote)
    name = arrive(remote, SPEC, here)
    assert name and name.is_finished and finished(here)
    assert content(here)["model/model.safetensors"] == b"weights"


def test_a_bucket_that_is_not_there_is_refused(bucket, monkeypatch):
    monkeypatch.setenv("RLHF_REMOTE", "s3://nobodys/rlhf")
    with pytest.raises(BadInput, match="s3://nobodys/rlhf, which cannot be written"):
        Remote.here().require_usable()


@pytest.mark.slow  # the client looks in every place for credentials, several times
def test_missing_credentials_are_refused(bucket, monkeypatch, tmp_path):
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    forget_clients()
    with pytest.raises(BadInput, match="NoCredentialsError"):
        Remote.here().require_usable()


class ClientAuthenticationError(Exception):
    """The error of Azure's client without credentials; its package is not locked."""


class NoToken:
    """Azure's credentials where none is found."""

    def get_token(self, scope: str) -> str:
        raise ClientAuthenticationError(f"no token for {scope}\nAttempted credentials: ...")


class AzureFiles(MemoryFileSystem):
    """A store that takes tokens, as adlfs."""

    sync_credential = NoToken()
    store: dict = {}  # noqa: RUF012 its own, not that of every file system in memory


def test_missing_credentials_of_azure_are_found_before_its_store_is_asked():
    """Bug: the store's client asked for them four times in 80 seconds."""
    files = AzureFiles(skip_instance_cache=True)
    with pytest.raises(BadInput) as refused:
        Remote("az://team/rlhf", files, "/team/rlhf").require_usable()
    found = "ClientAuthenticationError: no token for https://storage.azure.com/.default"
    assert f"there are no credentials ({found}); expected AZURE_STORAGE_CONN" in str(refused.value)
    assert not files.store
    files.sync_credential = None  # an account key needs no token
    Remote("az://team/rlhf", files, "/team/rlhf").require_usable()
    assert list(files.store) == ["/team/rlhf/rlhf-remote.json"]


def test_a_server_that_is_away_costs_a_warning_without_a_secret(bucket, monkeypatch, caplog):
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_clients()
    Remote.here().require_usable()
    (warning,) = caplog.records
    assert "s3://team/rlhf does not answer" in warning.getMessage()
    assert "very-secret-key" not in caplog.text


def test_machines_share_the_day_that_chat_templates_print(tmp_path, monkeypatch):
    remote = remote_in(tmp_path / "bucket")
    homes = [tmp_path / name for name in ("first", "second")]
    for home in homes:
        home.mkdir()
    (homes[0] / "template_date").write_text("2026-01-02")
    for home in homes:
        remote.share_template_date(Workspace(home))
    assert [first_template_date(home) for home in homes] == ["2026-01-02"] * 2
