"""Remote versions are fetched once, checked, and replaced only when they are damaged."""

import os
from concurrent.futures import ThreadPoolExecutor

import mlflow
import pytest

from rlhf_core.errors import BadInput
from tasks.registry import fetching, versions
from tasks.registry.fetching import fetch


@pytest.fixture(autouse=True)
def remote(registry, monkeypatch) -> None:
    """Take every version for one on a server's store, which is downloaded."""
    for module in (fetching, versions):
        monkeypatch.setattr(module, "local_folder", lambda _: None)


def test_several_that_fetch_a_remote_version_at_once_download_it_once(registry, monkeypatch):
    version = registry.version("policy", "2")
    download, downloads = mlflow.artifacts.download_artifacts, []

    def counted(*args: str, **named: str) -> str:
        downloads.append(args)
        return download(*args, **named)

    monkeypatch.setattr(mlflow.artifacts, "download_artifacts", counted)
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(lambda _: fetch(registry.workspace, version), range(4)))
    assert len(downloads) == 1
    assert {artifact.verified().digest for artifact in found} == {version.tags["digest"]}


def test_a_fetched_copy_that_is_damaged_is_fetched_anew(registry):
    version = registry.version("policy", "2")
    weights = fetch(registry.workspace, version).path / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1])
    fetch(registry.workspace, version)
    assert weights.read_bytes() == whole


def test_a_fetched_copy_has_the_time_of_its_last_use(registry):
    version = registry.version("policy", "2")
    folder = registry.workspace.fetched / version.tags["digest"][:12]
    fetch(registry.workspace, version)
    os.utime(folder, (0, 0))
    fetch(registry.workspace, version)
    assert folder.stat().st_mtime > 0


def test_a_version_that_no_run_has_registered_is_refused_and_nothing_is_removed(registry):
    client = registry.client
    source = registry.version("policy", "2").source
    foreign = client.create_model_version("tiny-policy", source)
    kept = registry.workspace.home / "versions" / "0123456789ab"
    kept.mkdir(parents=True)
    with pytest.raises(BadInput, match=f"{foreign.version} of tiny-policy has no tag `digest`"):
        fetch(registry.workspace, foreign)
    assert kept.is_dir()
