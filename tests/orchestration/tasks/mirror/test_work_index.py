"""A stage finds in the remote what the same work left on another number of ranks."""

import fcntl
import json
from pathlib import Path

import pytest
from mirrored_runs import add_checkpoint, on_ranks, remote_in, stopped_on_ranks

from rlhf_core.rundir import Artifact, StageResult, StageSpec
from tasks.execution.continuation import continue_stopped
from tasks.mirror.arrival import arrive_stopped
from tasks.mirror.uploader import Upload
from tasks.mirror.work_index import WorkIndex

ONE, TWO = on_ranks(1), on_ranks(2)


@pytest.fixture
def remote(tmp_path):
    return remote_in(tmp_path / "bucket")


@pytest.fixture
def here(tmp_path) -> Path:
    """The run directory of two ranks on a machine that has nothing."""
    run_dir = tmp_path / "here" / "runs" / f"sft-{TWO.digest[:12]}"
    run_dir.mkdir(parents=True)
    return run_dir


def mirrored(remote, runs: Path, spec: StageSpec = ONE, step: int = 4) -> Path:
    """Copy what a stage left on another machine to the remote."""
    run_dir = stopped_on_ranks(runs, spec, step)
    Upload(run_dir, spec.digest).run(remote)
    return run_dir


def finish(run_dir: Path, spec: StageSpec) -> None:
    (run_dir / "model").mkdir()
    (run_dir / "model" / "weights").write_text("w")
    outputs = {"model": Artifact(path="model", digest=Artifact.of(run_dir / "model").digest)}
    result = StageResult(stage="sft", digest=spec.digest, outputs=outputs, seconds=1.0)
    (run_dir / "result.json").write_text(result.model_dump_json())


def test_a_stage_goes_on_from_the_checkpoint_of_other_ranks_on_another_machine(
    remote, here, tmp_path
):
    there = mirrored(remote, tmp_path / "there")
    arrive_stopped(remote, TWO, here)
    assert continue_stopped(TWO, here) == here.parent / there.name
    checkpoint = "checkpoints/step-000004/state.safetensors"
    assert (here / checkpoint).read_bytes() == (there / checkpoint).read_bytes()
    (one,) = json.loads((here / "continued.json").read_text())
    assert one == {"run_dir": there.name, "ranks": 1, "checkpoint": "step-000004"}


def test_what_is_no_further_than_here_is_not_fetched(remote, here, tmp_path):
    there = mirrored(remote, tmp_path / "there")
    add_checkpoint(here, 4)
    arrive_stopped(remote, TWO, here)
    assert not (here.parent / there.name).exists()


def test_other_work_is_not_found(remote, here, tmp_path):
    mirrored(remote, tmp_path / "there", spec=on_ranks(1, seed=2))
    assert list(WorkIndex(remote).others(TWO, here.name)) == []


def test_work_that_was_finished_on_other_ranks_is_not_fetched(remote, here, tmp_path):
    there = mirrored(remote, tmp_path / "there")
    finish(there, ONE)
    Upload(there, ONE.digest).run(remote)
    arrive_stopped(remote, TWO, here)
    assert not (here.parent / there.name).exists()
    assert list(WorkIndex(remote).others(TWO, here.name)) == []


def test_a_note_under_a_name_that_is_not_its_specs_is_passed_over(remote, here):
    WorkIndex(remote).note(ONE, "sft-elsewhere")
    assert list(WorkIndex(remote).others(TWO, here.name)) == []


def test_a_directory_that_a_stage_works_in_is_left_alone(remote, here, tmp_path):
    there = mirrored(remote, tmp_path / "there")
    other = here.parent / there.name
    other.mkdir()
    with (other / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        arrive_stopped(remote, TWO, here)
    assert not (other / "checkpoints").exists()
