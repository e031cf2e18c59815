"""A stage that was stopped goes on with other ranks, in a run directory of its own."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from rlhf_core.config import SFT
from rlhf_core.engine.continued import continued_from
from rlhf_core.rundir import StageSpec
from tasks.execution.continuation import continue_stopped


def spec_with(ranks: int = 1, **section: object) -> StageSpec:
    config = {"sft": SFT(**section).model_dump(mode="json"), "dtype": "float32"}
    config |= {"ranks": ranks} if ranks > 1 else {}
    return StageSpec(stage="sft", seed=1, config=config, inputs={}, code="c")


def stopped(runs: Path, spec: StageSpec) -> Path:
    """Return the run directory of a stage that was killed after step 2, while it wrote step 4."""
    folder = runs / f"sft-{spec.digest[:12]}"
    (folder / "checkpoints" / "step-000002").mkdir(parents=True)
    (folder / "checkpoints" / ".step-4.tmp").mkdir()
    (folder / "checkpoints" / "step-000002" / "state.safetensors").write_bytes(b"weights")
    (folder / "checkpoints" / "step-000002" / "extra.json").write_text("{}")
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "metrics.jsonl").write_text('{"step": 1}\n')
    (folder / "stage.log").write_text("killed")
    return folder


@pytest.mark.parametrize(
    ("ranks", "section"),
    [(2, {}), (1, {"zero_stage": 2}), (4, {"zero_stage": 3, "checkpoint_minutes": 5.0})],
)
def test_checkpoints_and_metrics_of_the_same_work_are_taken(tmp_path, ranks, section):
    first, then = spec_with(), spec_with(ranks, **section)
    folder, run_dir = stopped(tmp_path, first), tmp_path / f"sft-{then.digest[:12]}"
    run_dir.mkdir()
    assert folder != run_dir and continue_stopped(then, run_dir) == folder
    there = {path.relative_to(run_dir).as_posix() for path in run_dir.rglob("*") if path.is_file()}
    state = "checkpoints/step-000002/state.safetensors"
    extra = "checkpoints/step-000002/extra.json"
    assert there == {state, extra, "metrics.jsonl", "continued.json"}
    assert os.path.samefile(run_dir / state, folder / state)
    assert not os.path.samefile(run_dir / "metrics.jsonl", folder / "metrics.jsonl")
    says = {"continued_from": f"step-000002 of {folder.name}, 1 ranks"}
    assert continued_from(run_dir) == says
    assert continue_stopped(then, run_dir) is None  # it has checkpoints of its own now


@pytest.mark.parametrize("difference", ["learning rate", "seed", "finished", "running", "none yet"])
def test_other_work_a_finished_stage_and_a_running_one_are_left_alone(tmp_path, difference):
    then = spec_with(2, **({"lr": 2e-5} if difference == "learning rate" else {}))
    if difference == "seed":
        then = then.model_copy(update={"seed": 2})
    folder, run_dir = stopped(tmp_path, spec_with()), tmp_path / f"sft-{then.digest[:12]}"
    run_dir.mkdir()
    if difference == "finished":
        (folder / "result.json").write_text("{}")
    if difference == "none yet":
        (folder / "checkpoints" / "step-000002").rename(folder / "checkpoints" / ".step-2.tmp")
    with (folder / ".lock").open("w") as lock:
        if difference == "running":
            fcntl.flock(lock, fcntl.LOCK_EX)
        assert continue_stopped(then, run_dir) is None
    assert list(run_dir.iterdir()) == []


def test_a_kill_in_the_middle_of_the_copy_begins_it_again(tmp_path):
    first, then = spec_with(), spec_with(2)
    folder, run_dir = stopped(tmp_path, first), tmp_path / f"sft-{then.digest[:12]}"
    (run_dir / ".checkpoints" / "step-000002").mkdir(parents=True)
    (run_dir / "metrics.jsonl").write_text('{"st')
    assert continue_stopped(then, run_dir) == folder
    assert (run_dir / "metrics.jsonl").read_text() == '{"step": 1}\n'
    assert len(json.loads((run_dir / "continued.json").read_text())) == 1
