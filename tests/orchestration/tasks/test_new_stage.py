"""A new stage is one entry in the catalogue, one module, and its call in a flow."""

import sys

import pytest
from mlflow import MlflowClient
from prefect import flow

from rlhf_core.config import Recipe
from rlhf_core.config.gate_rules import METRIC_PREFIXES
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
    takes={"model": "sft"},
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
    monkeypatch.setitem(METRIC_PREFIXES, "toy", "data/")
    return TOY


def test_a_stage_runs_is_recorded_and_is_not_repeated(toy, home, tiny_model, tmp_path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "p"}\n')
    recipe = Recipe.model_validate(
        {
            "name": "tiny",
            "model": {"base": str(tiny_model)},
            "registry": {"name": "tiny"},
            "data": dict.fromkeys(("demonstrations", "comparisons"), str(tmp_path / "d.jsonl")),
        }
    )
    sft = StageOutput(SFT, {}, {"sft": Artifact.of(tiny_model)}, {}, None)

    @flow(name="with-a-toy", persist_result=False)
    def counted() -> tuple[StageOutput, PipelineResult]:
        with opened(recipe, "a", from_stage=None, until="toy", report=lambda _: None) as context:
            output = run_stage(context, toy, sft)
            gate(context, output)
            tracker = context.tracker
        return output, result_of(tracker.record, tracker.problem)

    output, result = counted()
    files = len(list(tiny_model.iterdir()))
    assert output.artifacts["count"].path.read_text() == f"{files} files, float32"
    (row,) = result.rows
    assert (row.name, row.state, row.metric, row.value) == ("toy", "done", "data/rows", files)
    stage_run = row.link.rsplit("/", 1)[1]
    client = MlflowClient(tracking_uri=f"sqlite:///{home / 'mlflow.db'}")
    assert client.get_run(stage_run).data.metrics["data/rows"] == files
    again = counted()[1]
    assert [row.state for row in again.rows] == ["cached"]
