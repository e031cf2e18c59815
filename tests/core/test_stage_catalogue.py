"""The catalogue agrees with what is declared elsewhere, and its entries can be started."""

import importlib
from typing import get_args

import pytest

from rlhf_core.config import RECIPES, load_recipe
from rlhf_core.config.gate_rules import GateRule
from rlhf_core.config.recipe import Alignment
from rlhf_core.metrics import METRICS
from rlhf_core.stage_catalogue import (
    ALIGNMENTS,
    LABEL_PAIRS,
    LEARNING,
    LIVE_SCORES,
    SAMPLING,
    STAGES,
    TRACE,
    stage_named,
    stage_of_prefix,
)


@pytest.mark.parametrize(
    "stage", [*STAGES.values(), TRACE, LABEL_PAIRS, LIVE_SCORES], ids=lambda stage: stage.name
)
def test_an_entry_is_a_function_of_spec_and_run_directory(stage):
    module, function = stage.entry.split(":")
    code = getattr(importlib.import_module(module), function).__code__
    assert code.co_argcount == 2 and stage_named(stage.name) is stage


@pytest.mark.parametrize("stage", STAGES.values(), ids=list(STAGES))
def test_every_metric_that_a_stage_shows_is_declared_and_its_own(stage):
    for name in (*stage.headline, *stage.live, *stage.curves):
        assert name in METRICS and name.startswith(f"{stage.metric_prefix}/")


def test_a_recipe_can_name_every_alignment_and_gate_every_gated_stage():
    assert get_args(Alignment) == ALIGNMENTS
    gated = {name for name, stage in STAGES.items() if stage.gated}
    assert set(GateRule.model_json_schema()["properties"]["stage"]["enum"]) == gated


def test_what_a_stage_reads_says_which_rows_stay_together_and_whose_length_counts():
    planned = [stage for stage in STAGES.values() if stage.planned]
    assert {stage.name for stage in planned if stage.reads_pairs} == {"reward", "dpo"}
    assert {stage.name for stage in planned if not stage.reads_replies} == {"ppo"}


def test_what_a_stage_takes_and_is_measured_on_is_there_before_it():
    there: set[str] = set()
    for stage in STAGES.values():
        assert set(stage.takes.values()) <= there, stage.name
        taken = {*stage.takes, *stage.may_take}
        for heldout in filter(None, (stage.heldout, stage.heldout_else)):
            assert heldout in there & taken, stage.name
        there |= set(stage.gives)


@pytest.mark.parametrize("name", [path.stem for path in RECIPES.glob("*.toml")])
def test_a_recipe_has_the_settings_of_every_stage_that_learns_or_samples(name):
    recipe = load_recipe(name)
    for stage in (*LEARNING, *SAMPLING):
        assert recipe.section(stage) is getattr(recipe, stage)
    for stage in SAMPLING:
        assert recipe.sampling(stage) is getattr(recipe, stage).sampling


def test_the_prefix_of_a_metric_names_its_stage():
    assert [stage_of_prefix(stage.metric_prefix) for stage in STAGES.values()] == [*STAGES.values()]
    assert stage_of_prefix("system") is None
