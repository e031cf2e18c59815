"""The plan of a run takes what the run takes: splits without leaked prompts, and the champion."""

import pytest
from made_models import MadeModels, rows
from recipes import tiny_recipe

from rlhf_core.data.splits import save_split
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import EVALUATE, REWARD, VALIDATE
from tasks.leakage.heldout import without_leaks
from tasks.leakage.planned import added_by_run
from tasks.records.run_record import Record
from tasks.run_context import RunContext

HELDOUT = [f"held out {i}" for i in range(150)]


@pytest.fixture
def made(home):
    return MadeModels(home)


@pytest.fixture
def have(made, tmp_path):
    data, sft, reward = made.pipeline("ours", "ours 1", "ours 2")
    found = {**data, "sft": sft, "reward": reward, "policy": Artifact.of(sft.path)}
    for name in ("prompts", "demonstrations", "comparisons"):
        save_split(tmp_path / f"{name}.jsonl", rows(*HELDOUT))
        found[f"{name}_heldout"] = Artifact.of(tmp_path / f"{name}.jsonl")
    return found


def test_splits_are_those_that_the_run_measures_on(made, have):
    """Bug: --print-launch named another folder than that of the finished reward stage."""
    _, _, start = made.pipeline("theirs", *HELDOUT[:4])
    recipe = tiny_recipe(reward={"start": str(start.path)})
    record = Record.new(made.workspace, recipe)
    record.save(made.workspace)
    found = without_leaks(RunContext(recipe, made.workspace, record.id), REWARD, have)
    added = added_by_run(recipe, made.workspace)
    assert found and added(REWARD, have) == found.splits
    assert list(found.splits) == ["comparisons_heldout"]
    assert added(VALIDATE, {}) == {}


def test_the_evaluation_gets_the_champion(registry, made, have):
    """Bug: --print-launch named the folder of an evaluation without it."""
    added = added_by_run(tiny_recipe(), registry.workspace)(EVALUATE, have)
    assert added["champion"].digest == registry.as_champion("policy", "1").digest
    other = tiny_recipe(registry={"name": "other"})  # which has no champion
    assert "champion" not in added_by_run(other, registry.workspace)(EVALUATE, have)
