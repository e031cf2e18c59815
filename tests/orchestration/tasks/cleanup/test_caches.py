"""Caches that no run has used for the time that is given are removed."""

import os
from pathlib import Path

import pytest
from old_runs import LIMIT, OLD, aged, collect, record, run_dir

from rlhf_core.digest import digest_json
from rlhf_core.rundir import Artifact, StageSpec
from tasks.records.file_lock import locked
from tasks.registry.fetching import fetch_lock

RESULT = f"{digest_json('a result')}.json"
FETCHED, DOWNLOAD, SPLIT = "0123456789ab", ".abcdef_1", "prompts_heldout-0123456789ab.jsonl"


@pytest.fixture
def caches(workspace) -> dict[str, Path]:
    """Return one old file or folder of each cache by its name."""
    found = {
        RESULT: workspace.runs / "benchmarks" / RESULT,
        FETCHED: workspace.fetched / FETCHED / "artifacts" / "model" / "model.safetensors",
        DOWNLOAD: workspace.fetched / DOWNLOAD / "files" / "model.safetensors",
        SPLIT: workspace.heldout / SPLIT,
    }
    for file in found.values():
        file.parent.mkdir(parents=True)
        file.write_text("cached")
    for folder in (workspace.runs / "benchmarks", workspace.fetched, workspace.heldout):
        aged(folder)
    return found


def test_what_no_run_has_used_lately_goes(workspace, caches):
    assert collect(workspace) == set(caches)
    assert not any(file.exists() for file in caches.values())


def test_what_a_run_has_used_lately_stays(workspace, caches):
    assert collect(workspace, days=OLD + 1) == set()
    os.utime(caches[RESULT])
    os.utime(workspace.fetched / FETCHED)
    os.utime(caches[DOWNLOAD])
    os.utime(caches[SPLIT])
    assert collect(workspace) == set()
    assert collect(workspace, days=0) == set()  # made within the last hour


@pytest.mark.parametrize("name", [FETCHED, SPLIT])
def test_what_a_stage_of_an_open_run_takes_stays(workspace, caches, name):
    stage = run_dir(workspace, "evaluate", 1)
    inputs = {"given": Artifact(path=caches[name], digest="d")}
    spec: StageSpec = StageSpec(stage="evaluate", seed=1, config={}, inputs=inputs, code="c")
    (stage / "spec.json").write_text(spec.model_dump_json())
    aged(stage)
    record(workspace, 1, [stage], sent=False)
    assert collect(workspace) == set(caches) - {name}


def test_the_lock_of_a_fetch_stays_for_the_next_one(workspace, caches):
    lock = fetch_lock(workspace.fetched / FETCHED)
    with locked(lock):
        pass
    aged(workspace.fetched)
    assert FETCHED in collect(workspace) and lock.exists()


def test_other_names_and_links_stay(workspace, caches, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / RESULT).write_text("mine")
    os.replace(caches[RESULT], caches[RESULT].with_name("notes.json"))
    (workspace.heldout / "my-rows.jsonl").write_text("mine")
    (workspace.fetched / "ffffffffffff").symlink_to(tmp_path / "mine")
    for folder in (workspace.runs / "benchmarks", workspace.fetched, workspace.heldout):
        aged(folder)
    assert collect(workspace, days=LIMIT) == {FETCHED, DOWNLOAD, SPLIT}
    assert (tmp_path / "mine" / RESULT).exists()
