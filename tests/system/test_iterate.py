"""Rounds of labels and DPO on the quickstart, with a kill in between: `make test-slow`."""

import json
import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]
WORDS = ("iterate", "quickstart-dpo", "--rounds", "2", "--labels", "40", "--json")
FEW = ("--set", "data.comparisons.limit=2000")


def wait_for(home: Path, pattern: str) -> Path:
    while not (found := list(home.glob(pattern))):
        time.sleep(0.1)
    return found[0]


def test_two_rounds_of_dpo_survive_a_kill_between_labels_and_run(open_workspace):
    workspace = open_workspace()
    killed = workspace.start(*WORDS, *FEW)
    labels = wait_for(workspace.home, "iterations/*/round-1/comparisons.jsonl")
    killed.kill()
    killed.communicate()
    while workspace.processes():
        time.sleep(0.1)
    before = labels.read_bytes()
    assert len(before.splitlines()) == 40
    state = json.loads((labels.parents[1] / "iteration.json").read_text())
    assert [one["number"] for one in state["rounds"]] == [0]

    process = workspace.start(*WORDS, *FEW)
    out, err = process.communicate()
    assert process.returncode == 0, err
    values = json.loads(out)
    assert values["already_done"] == 1 and labels.read_bytes() == before
    rounds = values["rounds"]
    print([(one["outcome"], one["metrics"]["eval/independent_policy"]["value"]) for one in rounds])
    assert [one["number"] for one in rounds] == [0, 1, 2] and rounds[0]["outcome"] == "promoted"
    assert all(one["metrics"]["eval/independent_gain"]["low"] > 0 for one in rounds)
    kept = [one["metrics"]["data/new_comparisons_train"]["value"] for one in rounds[1:]]
    assert 0 < kept[0] <= 40 and kept[0] < kept[1] <= 80
    assert len({one["policy"] for one in rounds}) == 3
