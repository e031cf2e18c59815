"""The first stage of a run, which begins while Prefect's server starts."""

import time

import pytest
from workspaces import started

from rlhf_core.stage_catalogue import PREPARE, VALIDATE
from tasks import first_stage
from tasks.execution.stage_process import is_ahead, run_stage
from tasks.records.workspace import Workspace
from tasks.stages.contract import outputs_of, spec_of


def stages_begun(home, recipe, from_stage=None, until=None) -> list[str]:
    """Return the stages that begin ahead; each ends with the block."""
    with first_stage.started(recipe, from_stage, until):
        ahead = any(map(is_ahead, (home / "runs").glob("*-*")))
        deadline = time.monotonic() + 20
        while ahead and not (home / "runs" / "started.log").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
    return started(home)


def test_the_first_stage_that_has_something_to_run_begins_and_ends_with_the_block(
    make_recipe, home, plan
):
    """The tiny recipe gives its base model, so that `prepare` has nothing to run."""
    plan(validate={"seconds": 60})
    assert stages_begun(home, make_recipe()) == ["validate"]
    (run_dir,) = (home / "runs").glob("validate-*")
    assert not (run_dir / "result.json").exists()


@pytest.mark.parametrize(
    ("changes", "span"),
    [
        pytest.param({"reward": {"start": "champion"}}, (None, None), id="refused"),
        pytest.param({"limits": {"hours": 1}}, (None, None), id="a limit to decide first"),
        pytest.param({}, ("sft", None), id="a later stage"),
        pytest.param({}, (None, "prepare"), id="nothing to run"),
        pytest.param({}, ("sft", "validate"), id="steps in the wrong order"),
    ],
)
def test_nothing_begins_ahead(make_recipe, home, changes, span):
    assert stages_begun(home, make_recipe(**changes), *span) == []


@pytest.mark.parametrize(
    ("variable", "address"),
    [("MLFLOW_TRACKING_URI", "http://127.0.0.1:9"), ("RLHF_REMOTE", "s3://bucket/folder")],
)
def test_a_run_that_has_to_ask_a_server_first_begins_nothing_ahead(
    make_recipe, home, monkeypatch, variable, address
):
    monkeypatch.setenv(variable, address)
    assert stages_begun(home, make_recipe()) == []


def test_a_finished_first_stage_begins_nothing_ahead(make_recipe, home):
    recipe = make_recipe()
    spec = spec_of(VALIDATE, recipe, outputs_of(PREPARE, recipe, None))
    run_stage(spec, Workspace(home).run_dir(spec))
    assert started(home) == ["validate"]
    assert stages_begun(home, recipe) == []
