"""Data in a real S3 bucket: fetched once, again after a change, with the digests of files here."""

import json
import os
import time
from pathlib import Path

import pytest
from recipes import prepared_recipe
from s3_server import forget_clients

from rlhf_core.config import load_recipe
from rlhf_core.errors import BadInput, ConfigError, StageFailed
from rlhf_core.rundir import Artifact
from tasks.cleanup.caches import cached_items
from tasks.records.workspace import Workspace
from tasks.stages import prepare, validate
from tasks.stages.contract import check_paths
from tasks.stages.spec import local, model_folder
from tasks.stages.stored.stored_files import fetched

ROWS = '{"prompt": "p", "response": "r"}\n'
FIELD = "data.demonstrations"


@pytest.fixture
def put(s3, monkeypatch, home, request):
    """Put a text under a key of this test's own folder in the bucket, and return its address."""
    from rlhf_core.buckets import file_system

    s3.use(monkeypatch)
    monkeypatch.delenv("RLHF_ALLOWED_ROOTS", raising=False)
    folder = f"s3://team/{request.node.name.split('[')[0]}"
    files, root = file_system("test", folder)

    def write(key: str, text: str = ROWS) -> str:
        files.pipe_file(f"{root}/{key}", text.encode())
        return f"{folder}/{key}"

    return write


def folders(home: Path) -> list[str]:
    return sorted(path.name for path in Workspace(home).objects.iterdir())


def test_an_object_is_fetched_once_and_again_when_it_has_changed(put, home):
    address = put("d.jsonl")
    first = fetched(FIELD, address)
    assert first.read_text() == ROWS and first.name == "d.jsonl"
    assert fetched(FIELD, address) == first and len(folders(home)) == 1
    put("d.jsonl", ROWS * 2)
    assert fetched(FIELD, address).read_text() == ROWS * 2 and len(folders(home)) == 2


def test_a_pattern_and_a_folder_have_the_digest_of_the_same_files_here(put, tmp_path):
    for name in ("a.jsonl", "sub/b.jsonl", ".hidden.jsonl", "notes.txt"):
        address = put(f"data/{name}", f"{name}\n")
        file = tmp_path / "here" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{name}\n")
    folder = address.removesuffix("/notes.txt")
    for end in ("", "/*.jsonl", "/**/*.jsonl"):
        theirs = Artifact.of(local(FIELD, folder + end))
        assert theirs.digest == Artifact.of(Path(f"{tmp_path}/here{end}")).digest, end


def test_the_source_of_what_was_fetched_stands_beside_it(put):
    address = put("d.jsonl")
    source = json.loads((fetched(FIELD, address).parent / ".source.json").read_text())
    assert source["address"] == address
    (one,) = source["objects"]
    assert one["name"] == "d.jsonl" and one["size"] == len(ROWS) and len(one["etag"]) == 32


def test_validation_takes_data_of_a_bucket_by_their_bytes(put, have, tmp_path):
    data = {"demonstrations": put("d.jsonl"), "comparisons": put("c.jsonl")}
    recipe = prepared_recipe(data=data)
    check_paths(recipe)
    found = validate.spec(recipe, have).inputs["demonstrations"]
    (tmp_path / "d.jsonl").write_text(ROWS)
    assert found.digest == Artifact.of(tmp_path / "d.jsonl").digest


def test_a_model_of_a_bucket_is_a_base_model(put, tiny_model, home):
    from rlhf_core.buckets import file_system

    folder = put("model/x").removesuffix("/x")
    files, root = file_system("test", folder)
    files.rm(f"{root}/x")
    for file in tiny_model.iterdir():
        files.put_file(str(file), f"{root}/{file.name}")
    recipe = prepared_recipe(model={"base": folder})
    assert prepare.spec(recipe, {}) is None
    assert prepare.given(recipe)["base"].digest == Artifact.of(tiny_model).digest
    with pytest.raises(BadInput, match="no such object"):
        model_folder("model.base", f"{folder}-of-nobody")


@pytest.mark.parametrize("end", ["nothing.jsonl", "*.jsonl"])
def test_what_is_not_there_is_refused_by_field(put, end):
    address = put("x").removesuffix("x") + end
    with pytest.raises(BadInput, match=r"data\.demonstrations is .*no such object, folder or"):
        local(FIELD, address)


def test_a_bucket_that_does_not_answer_is_an_infrastructure_failure(put, monkeypatch):
    address = put("d.jsonl")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    forget_clients()
    with pytest.raises(StageFailed, match="the store does not answer"):
        local(FIELD, address)


def test_a_confined_worker_reads_the_buckets_that_are_named(put, monkeypatch, tmp_path):
    address = put("data/d.jsonl")
    folder = address.removesuffix("/d.jsonl")
    monkeypatch.setenv("RLHF_ALLOWED_ROOTS", str(tmp_path))
    with pytest.raises(BadInput, match="this worker may not read") as refused:
        local(FIELD, address)
    assert refused.value.code == "RLHF-R002"
    monkeypatch.setenv("RLHF_ALLOWED_BUCKETS", f"s3://other, {folder}/")
    assert local(FIELD, address)
    with pytest.raises(BadInput, match="this worker may not read"):
        local(FIELD, f"{folder}-secret/d.jsonl")  # a name that only begins alike


def test_gc_removes_what_no_run_has_used_for_long(put, home):
    address = put("d.jsonl")
    file = fetched(FIELD, address)
    old = time.time() - 40 * 86400
    for path in (file, file.parent / ".source.json", file.parent):
        os.utime(path, (old, old))
    (item,) = cached_items(Workspace(home), 30)
    assert item.path == file.parent and item.what == "fetched objects"
    assert fetched(FIELD, address) == file  # a use
    assert list(cached_items(Workspace(home), 30)) == []


def test_a_recipe_of_a_bucket_extends_the_one_beside_it(put):
    put("base.toml", 'extends = "quickstart"\nname = "base"\nregistry.name = "base"\nseed = 5\n')
    text = 'extends = "base.toml"\nname = "mine"\nregistry.name = "mine"\nppo.beta = 0.25\n'
    recipe = load_recipe(put("mine.toml", text))
    assert (recipe.name, recipe.seed, recipe.ppo.beta) == ("mine", 5, 0.25)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipe(put("x").removesuffix("x") + "none.toml")
