"""Versions in the registry: one for the same bytes, with tags about their origin."""

import json
from types import SimpleNamespace

import pytest
from promotion_checks import files

from rlhf_core.errors import BadInput
from tasks.registry import fetching, frame, versions


@pytest.fixture
def saved(monkeypatch) -> list[str]:
    """Return a list of the kinds of model whose frame MLflow has saved."""
    kinds, save = [], frame.save_frame

    def counted(kind: str, folder: object) -> None:
        kinds.append(kind)
        save(kind, folder)

    monkeypatch.setattr(frame, "save_frame", counted)
    return kinds


def test_the_same_bytes_are_one_version_also_when_two_register_at_once(registrar, monkeypatch):
    registry, look = registrar.registry, versions.version_with_digest
    # as if nobody had registered them yet: store_model's look and register's
    answers = iter([None, None])
    monkeypatch.setattr(versions, "version_with_digest", lambda *args: next(answers, look(*args)))
    assert registrar.policy(2) == "2"
    found = registry.client.search_model_versions(
        f"name = 'tiny-policy' and tags.digest = '{registrar.digests['policy', '2']}'"
    )
    assert [str(version.version) for version in found] == ["2"]


def test_a_version_says_where_it_comes_from(registry):
    tags = registry.client.get_model_version("tiny-policy", "3").tags
    assert (
        tags["reward_version"] == "2"
        and len(tags["gates_digest"]) == len(tags["frame_digest"]) == 64
    )
    records = json.loads((files(registry, "3") / "gates.json").read_text())["decisions"]
    assert [record["stage"] for record in records] == [
        "sft",
        "reward",
        "ppo",
        "evaluate",
        "promote",
    ]


def test_tags_are_those_of_the_files_also_when_a_twin_renews_them_meanwhile(registrar, monkeypatch):
    registry = registrar.registry
    gates, write = files(registry, "2") / "gates.json", registry.client.set_model_version_tag
    twins = iter([gates.read_bytes().replace(b"\n", b"\n\n")])

    def written_after_a_twin(*args: str) -> None:
        for content in twins:  # the twin's files come between these files and their first tag
            gates.write_bytes(content)
        write(*args)

    monkeypatch.setattr(registry.client, "set_model_version_tag", written_after_a_twin)
    assert registrar.policy(2, beats="1") == "2"
    version = registry.client.get_model_version("tiny-policy", "2")
    versions.require_digests(files(registry, "2"), version)


def test_a_version_that_is_registered_again_keeps_its_frame(registrar, saved):
    folder = files(registrar.registry, "2")
    before = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    registrar.policy(2)  # a twin without the contest with version 1
    assert saved == []
    after = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    assert [name for name in after if after[name] != before.get(name)] == ["gates.json"]


@pytest.mark.parametrize("name", ["policy_model.py", "MLmodel", "requirements.txt", "more.py"])
def test_a_frame_with_other_files_than_its_tags_say_is_made_anew(name, registrar, saved):
    file = files(registrar.registry, "2") / name
    file.unlink(missing_ok=True)  # a link to the file of other tests
    file.write_text("import os")
    registrar.policy(2)
    assert saved == ["policy"]
    assert not file.exists() if name == "more.py" else file.read_text() != "import os"


def test_a_frame_is_made_anew_for_other_packages(registrar, saved, monkeypatch):
    ask = frame.ask

    def updated(function: str, *arguments: str) -> str:
        return "9.9" if arguments == ("torch",) else ask(function, *arguments)

    monkeypatch.setattr(frame, "ask", updated)
    registrar.policy(2)
    assert saved == ["policy"]
    registrar.policy(2)
    assert saved == ["policy"]


def test_a_version_on_the_disk_of_another_machine_is_said_to_be_there(
    registry, tmp_path, monkeypatch
):
    version = registry.version("policy", "2")
    monkeypatch.setattr(versions, "location_of", lambda version: f"file://{tmp_path}/not-here")
    monkeypatch.setattr(fetching, "location_of", versions.location_of)
    away = SimpleNamespace(tracking_uri="http://mlflow:5000", fetched=tmp_path / "fetched")
    expected = "version 2 of tiny-policy is on the disk of MLflow's server"
    with pytest.raises(BadInput, match=expected), versions.served_files(away, version):
        pass
    with pytest.raises(BadInput, match=expected):
        fetching.fetch(away, version)
