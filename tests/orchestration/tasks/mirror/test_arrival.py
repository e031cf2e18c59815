"""A copy comes from the remote into the run directory whole; damaged copies stay outside."""

import logging
import os
import shutil
import signal
from pathlib import Path

import pytest
from mirrored_runs import NAME, SPEC, add_checkpoint, content, finished_run, remote_in, stopped_run

from rlhf_core.rundir import read_result
from tasks.execution.stage_process import finished
from tasks.mirror import arrival, marks
from tasks.mirror.copies import RunCopies
from tasks.mirror.uploader import Upload


@pytest.fixture
def remote(tmp_path):
    return remote_in(tmp_path / "bucket")


@pytest.fixture
def here(tmp_path) -> Path:
    """The run directory on a machine that has nothing."""
    run_dir = tmp_path / "here" / "runs" / NAME
    run_dir.mkdir(parents=True)
    return run_dir


def mirrored(remote, make, runs: Path, **options) -> Path:
    """Copy a run directory of another machine to the remote."""
    run_dir = make(runs, **options)
    Upload(run_dir, SPEC.digest).run(remote)
    return run_dir


def files_of_copies(remote, name: str) -> list[Path]:
    return sorted(Path(remote.root, "runs", NAME).glob(f"*/files/{name}"))


def test_a_finished_stage_arrives_and_is_finished(remote, here, tmp_path):
    there = mirrored(remote, finished_run, tmp_path / "there")
    name = arrival.arrive(remote, SPEC, here)
    assert (
        name
        and name.is_finished
        and finished(here)
        == finished(there).model_copy(update={"outputs": read_result(here).outputs})
    )
    assert {k: v for k, v in content(here).items() if k != "spec.json"} == {
        k: v for k, v in content(there).items() if k != "spec.json"
    }
    assert marks.is_mirrored(here, remote.address)
    assert arrival.arrive(remote, SPEC, here) is None  # nothing is further


def test_a_checkpoint_arrives_in_place_of_an_older_one(remote, here, tmp_path):
    there = mirrored(remote, stopped_run, tmp_path / "there", step=6)
    shutil.copytree(stopped_run(tmp_path / "old", step=4), here, dirs_exist_ok=True)
    name = arrival.arrive(remote, SPEC, here)
    assert name and name.step == 6
    assert [path.name for path in (here / "checkpoints").iterdir()] == ["step-000006"]
    for file in ("metrics.jsonl", "checkpoints/step-000006/state.safetensors"):
        assert (here / file).read_bytes() == (there / file).read_bytes()
    assert (here / "stage.log").read_text() == "of this machine" and not (here / "tokens").exists()


@pytest.mark.parametrize("step", [4, 6])
def test_a_checkpoint_that_is_no_further_stays_away(remote, here, tmp_path, step):
    mirrored(remote, stopped_run, tmp_path / "there", step=4)
    shutil.copytree(stopped_run(tmp_path / "old", step=step), here, dirs_exist_ok=True)
    before = content(here)
    assert arrival.arrive(remote, SPEC, here) is None and content(here) == before


def test_answers_of_a_judge_that_were_given_here_are_kept(remote, here, tmp_path):
    line = '{"key": "%s", "outcome": "a", "reason": null, "tokens": null}\n'
    there = stopped_run(tmp_path / "there")
    (there / "judge_answers.jsonl").write_text(line % "theirs")
    Upload(there, SPEC.digest).run(remote)
    (here / "judge_answers.jsonl").write_text(line % "ours")
    arrival.arrive(remote, SPEC, here)
    assert (here / "judge_answers.jsonl").read_text() == line % "theirs" + line % "ours"


def test_a_damaged_copy_is_refused_once_with_a_warning(remote, here, tmp_path, caplog):
    mirrored(remote, finished_run, tmp_path / "there")
    (file,) = files_of_copies(remote, "model/model.safetensors")
    file.write_text("weighte")
    for _ in range(2):
        assert arrival.arrive(remote, SPEC, here) is None
    assert content(here) == {}
    (warning,) = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert "model/model.safetensors holds other bytes than were copied" in warning.getMessage()


def test_what_is_made_again_takes_the_place_of_a_damaged_copy(remote, here, tmp_path):
    mirrored(remote, finished_run, tmp_path / "there")
    (file,) = files_of_copies(remote, "model/model.safetensors")
    file.write_text("weighte")
    assert arrival.arrive(remote, SPEC, here) is None
    shutil.copytree(finished_run(tmp_path / "anew"), here, dirs_exist_ok=True)
    Upload(here, SPEC.digest).run(remote)
    assert len(RunCopies(remote, NAME).names()) == 1
    third = tmp_path / "third" / NAME
    third.mkdir(parents=True)
    assert arrival.arrive(remote, SPEC, third) and finished(third)


def test_the_checkpoint_before_a_damaged_one_is_taken(remote, here, tmp_path):
    there = mirrored(remote, stopped_run, tmp_path / "there", step=4)
    add_checkpoint(there, 6)
    Upload(there, SPEC.digest).run(remote)
    (file,) = files_of_copies(remote, "checkpoints/step-000006/state.safetensors")
    file.write_text("state 7")
    name = arrival.arrive(remote, SPEC, here)
    assert name and name.step == 4


def test_a_copy_of_another_spec_is_refused(remote, here, tmp_path):
    Upload(finished_run(tmp_path / "there"), "0" * 64).run(remote)
    assert arrival.arrive(remote, SPEC, here) is None and content(here) == {}


def test_a_copy_whose_outputs_are_not_those_of_its_result_is_refused(remote, here, tmp_path):
    there = finished_run(tmp_path / "there")
    (there / "model" / "model.safetensors").write_text("changed before it was copied")
    Upload(there, SPEC.digest).run(remote)
    assert arrival.arrive(remote, SPEC, here) is None and content(here) == {}


def moves(monkeypatch, name: str, step: int) -> None:
    """Kill this process before the n-th rename or removal of the move."""
    left = [step]
    plain = getattr(Path, name)

    def counted(path, *arguments, **options):
        left[0] -= 1
        if not left[0]:
            os.kill(os.getpid(), signal.SIGKILL)
        return plain(path, *arguments, **options)

    monkeypatch.setattr(Path, name, counted)


@pytest.mark.parametrize("make", [finished_run, stopped_run])
@pytest.mark.parametrize("step", range(1, 7))
def test_a_kill_at_any_step_of_the_arrival_leaves_a_state_that_the_next_start_ends(
    remote, here, tmp_path, monkeypatch, make, step
):
    mirrored(remote, make, tmp_path / "there")
    if make is stopped_run:
        shutil.copytree(stopped_run(tmp_path / "old", step=2), here, dirs_exist_ok=True)
    process = os.fork()
    if process == 0:
        moves(monkeypatch, "rename", step)
        arrival.arrive(remote, SPEC, here)
        os._exit(0)
    os.waitpid(process, 0)
    half = here / "result.json"
    assert not half.exists() or finished(here)  # it never looks finished before it is
    arrival.finish_move(here)
    arrival.arrive(remote, SPEC, here)
    clean = tmp_path / "clean" / NAME
    clean.mkdir(parents=True)
    arrival.arrive(remote, SPEC, clean)
    local = ("stage.log", "spec.json", "system.jsonl")
    ours, theirs = content(here), content(clean)
    assert {k: v for k, v in ours.items() if k not in local or make is finished_run} == theirs
    assert not (here / ".fetched").exists() and not (here / ".fetching").exists()
