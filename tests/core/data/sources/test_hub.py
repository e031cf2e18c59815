"""A hub data set is read at one commit, which the record has, with and without the network."""

import json
import os
import subprocess
import sys

import pytest
from hub import Hub, serve_hub

CARD = """---
configs:
- config_name: easy
  data_files:
  - {split: train, path: easy/train.jsonl}
  - {split: test, path: easy/test.jsonl}
- config_name: hard
  data_files: hard/*.jsonl
---
"""
READ = """
import json, sys
from rlhf_core.config import Source
from rlhf_core.data.sources.hub import at_commit
from rlhf_core.data.read import read_source
from rlhf_core.errors import RLHFError
for values in json.load(sys.stdin):
    try:
        source = at_commit("comparisons", Source(**values))
        rows = read_source("comparisons", source, None)
        print(json.dumps([source.revision, [row["prompt"] for _, row in rows]]))
    except RLHFError as error:
        print(json.dumps([type(error).__name__, str(error)]))
"""


def files(text: str) -> dict[str, str]:
    """Return the files of a data set of two configurations whose training row is `text`."""
    names = ("easy/train", "easy/test", "hard/part")
    rows = [{"prompt": f"{text} of {name}", "response": "r"} for name in names]
    return {"README.md": CARD} | {
        f"{name}.jsonl": json.dumps(row) + "\n" for name, row in zip(names, rows, strict=True)
    }


@pytest.fixture(scope="module")
def hub():
    """A hub with `org/pairs`, whose branch v1 is older than main, and `org/plain`."""
    hub = Hub()
    hub.commit("org/pairs", files("old"), branch="v1")
    hub.commit("org/pairs", files("new"))
    hub.commit("org/plain", {"data/train-0.jsonl": '{"prompt": "plain", "response": "r"}\n'})
    return hub


@pytest.fixture
def read(hub, tmp_path):
    """Read sources in a process of their own; return what each gave: revision and prompts."""

    def read(*sources: dict, **variables: str) -> list:
        with serve_hub(hub, tmp_path / "cache") as found:
            done = subprocess.run(
                [sys.executable, "-c", READ],
                input=json.dumps(sources),
                env=os.environ | found | variables,
                capture_output=True,
                text=True,
                check=True,
            )
        return [json.loads(line) for line in done.stdout.splitlines()]

    return read


def easy(**values: str) -> dict:
    return {"path": "org/pairs", "config": "easy"} | values


def test_configuration_revision_and_split_choose_the_rows_and_the_commit_is_kept(hub, read):
    main, old = (hub.revisions["org/pairs"][branch] for branch in ("main", "v1"))
    assert read(
        easy(),
        easy(revision="v1"),
        easy(revision=old),
        easy(split="test", revision="main"),
        {"path": "org/pairs", "config": "hard"},
        {"path": "org/plain"},
    ) == [
        [main, ["new of easy/train"]],
        [old, ["old of easy/train"]],
        [old, ["old of easy/train"]],
        [main, ["new of easy/test"]],
        [main, ["new of hard/part"]],
        [hub.revisions["org/plain"]["main"], ["plain"]],
    ]


def test_what_the_hub_does_not_have_is_refused_by_name(read):
    none, other, revision, split, missing = read(
        {"path": "org/pairs"},
        {"path": "org/pairs", "config": "x"},
        easy(revision="v7"),
        easy(split="dev"),
        {"path": "org/none"},
    )
    for found, wanted in ((none, "one of them"), (other, "'x'")):
        assert found[0] == "BadInput"
        assert f"has the configurations ['easy', 'hard']; expected {wanted}" in found[1]
    assert revision[0] == "BadInput" and "no revision 'v7'" in revision[1]
    assert split[0] == "BadInput" and "['train', 'test']" in split[1]
    assert missing[0] == "BadInput" and "the hub has no such data set" in missing[1]


def test_without_the_network_each_revision_is_read_from_the_cache(hub, read):
    sources = (easy(), easy(revision="v1"), {"path": "org/plain"})
    before = read(*sources)
    assert read(*sources, HF_HUB_OFFLINE="1") == before
    assert read(*sources[:1], HF_DATASETS_OFFLINE="1") == before[:1]
    assert read(*sources, HF_ENDPOINT="http://127.0.0.1:9") == before
    pinned = easy(revision=hub.revisions["org/pairs"]["main"])
    assert read(pinned, HF_HUB_OFFLINE="1") == before[:1]


def test_what_the_cache_does_not_have_is_refused_offline_and_tried_again_otherwise(read):
    read(easy())
    wanted = (easy(revision="v7"), easy(revision="0" * 40), {"path": "org/plain"})
    branch, commit, other = read(*wanted, HF_HUB_OFFLINE="1")
    assert {found[0] for found in (branch, commit, other)} == {"BadInput"}
    assert "HF_HUB_OFFLINE" in branch[1] and "HF_HUB_OFFLINE" in other[1]
    assert "expected 000000000000" in commit[1]
    (away,) = read({"path": "org/plain"}, HF_ENDPOINT="http://127.0.0.1:9")
    assert away[0] == "StageFailed" and "could not be reached" in away[1]
