"""A new stage is one entry in the catalogue, one module, and its call in a flow."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect import flow
from pydantic import ValidationError

from rlhf_core.config import Recipe
from rlhf_core.errors import GateRefused
from rlhf_core.rundir import Artifact
from rlhf_core.stage_catalogue import SFT, STAGES, Stage
from tasks.execution import stage_process
from tasks.gate import gate
from tasks.run_context import StageOutput, opened
from tasks.run_result import PipelineResult, result_of
from tasks.run_stage import run_stage

COUNT = """
from rlhf_core.rundir import Output


def run(spec, run_dir):
    files = len(list(spec.inputs["model"].path.iterdir()))
    (run_dir.path / "count.txt").write_text(f"{files} files, {spec.config.dtype}")
    return Output(outputs={"count": "count.txt"}, metrics={"data/rows": float(files)})
"""
START = """
import sys
sys.path.insert(0, {folder!r})
from rlhf_core.__main__ import main
from rlhf_core.stage_catalogue import STAGES, Stage
STAGES["toy"] = Stage(name="toy", entry="toy_stage:run", metric_prefix="data")
sys.exit(main(sys.argv[1:]))
"""
TOY = Stage(
    name="toy",
    entry="toy_stage:run",
    metric_prefix="data",
    takes={"model": "sft", "demonstrations_heldout": "demonstrations_heldout"},
    gives={"count": "count"},
    gated=True,
    headline=("data/rows",),
)


@pytest.fixture
def toy(tmp_path, monkeypatch) -> Stage:
    """The module of a stage that counts the files of the SFT model, and its entry."""
    (tmp_path / "toy_stage.py").write_text(COUNT)
    (tmp_path / "start.py").write_text(START.format(folder=str(tmp_path)))
    monkeypatch.setattr(stage_process, "COMMAND", (sys.executable, str(tmp_path / "start.py")))
    monkeypatch.setitem(STAGES, "toy", TOY)
    return TOY


@pytest.fixture
def make_recipe(tiny_model, tmp_path) -> Callable[..., Recipe]:
    """Make recipes whose gate `files` wants that many files of the toy stage."""
    (tmp_path / "d.jsonl").write_text('{"prompt": "p"}\n')
    rule = {"stage": "toy", "metric": "data/rows", "bound": "at least"}
    values = {
        "name": "tiny",
        "model": {"base": str(tiny_model)},
        "registry": {"name": "tiny"},
        "data": dict.fromkeys(("demonstrations", "comparisons"), str(tmp_path / "d.jsonl")),
    }
    return lambda files, **changes: Recipe.model_validate(
        values | {"gates": {"files": rule | {"threshold": files} | changes}}
    )


@flow(name="with-a-toy", persist_result=False)
def counted(recipe: Recipe, base: Path) -> tuple[StageOutput, PipelineResult]:
    """Run the toy stage and its gate on an SFT model."""
    heldout = Artifact.of(Path(recipe.data.demonstrations.path))
    have = {"sft": Artifact.of(base), "demonstrations_heldout": heldout}
    sft = StageOutput(SFT, {}, have, {}, None)
    with opened(recipe, "a", from_stage=None, until="toy", report=lambda _: None) as context:
        output = run_stage(context, TOY, sft)
        gate(context, output)
        tracker = context.tracker
    return output, result_of(tracker.record, tracker.problem)


def test_a_stage_runs_is_recorded_and_is_not_repeated(toy, home, tiny_model, make_recipe):
    files = len(list(tiny_model.iterdir()))
    output, result = counted(make_recipe(files), tiny_model)
    assert output.artifacts["count"].path.read_text() == f"{files} files, float32"
    (row,) = result.rows
    assert (row.name, row.state, row.metric, row.value) == ("toy", "done", "data/rows", files)
    assert [(decision.gate, decision.verdict) for decision in row.decisions] == [
        ("files", "passed")
    ]
    stage_run = row.link.rsplit("/", 1)[1]
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    assert client.get_run(stage_run).data.metrics["data/rows"] == files
    again = counted(make_recipe(files), tiny_model)[1]
    assert [row.state for row in again.rows] == ["cached"]
    with pytest.raises(GateRefused, match=f"data/rows is {files}, required at least {files + 1}"):
        counted(make_recipe(files + 1), tiny_model)


def test_the_rules_of_its_gates_are_checked_like_all_others(toy, make_recipe):
    with pytest.raises(ValidationError, match=r"no metric 'data/nosuch' of the stage toy"):
        make_recipe(1, metric="data/nosuch")
    with pytest.raises(ValidationError, match=r"'kto', 'evaluate' or 'toy'"):
        make_recipe(1, stage="toys")


@pytest.mark.parametrize("stage", ["toy", "validate"])
def test_a_stage_that_is_unknown_or_not_gated_takes_no_rule(make_recipe, stage):
    with pytest.raises(ValidationError, match=r"Input should be 'sft', .* or 'evaluate'"):
        make_recipe(1, stage=stage)
