"""The work of the flow's process while a stage runs."""

import sys

from recipes import tiny_recipe

from tasks import run_stage
from tasks.records.workspace import Workspace
from tasks.run_context import RunContext

SMOKE_TEST = "rlhf_core.modeling.smoke"


def watched(monkeypatch, stage: str, last: str) -> tuple[int, bool]:
    """Call twice what is called while a stage runs.

    Return how often its watch was called, and whether the smoke test was imported.
    """
    monkeypatch.delitem(sys.modules, SMOKE_TEST, raising=False)
    run_stage._import_smoke_test.cache_clear()
    context = RunContext(tiny_recipe(), Workspace.here(), "no-record", last=last)
    calls: list[int] = []
    watch = run_stage._importing_ahead(context, stage, lambda: calls.append(1))
    watch()
    watch()
    return len(calls), SMOKE_TEST in sys.modules


def test_the_promotions_smoke_test_is_imported_while_the_evaluation_runs(home, monkeypatch):
    assert watched(monkeypatch, "evaluate", "promote") == (2, True)


def test_without_a_promotion_nothing_is_imported_ahead(home, monkeypatch):
    assert watched(monkeypatch, "evaluate", "evaluate") == (2, False)
    assert watched(monkeypatch, "ppo", "promote") == (2, False)


def test_a_smoke_test_that_cannot_be_imported_does_not_stop_the_evaluation(home, monkeypatch):
    monkeypatch.setitem(sys.modules, "safetensors", None)
    assert watched(monkeypatch, "evaluate", "promote") == (2, False)
