"""A stage that was stopped goes on with other ranks, in a run directory of its own."""

import fcntl
import json
import os
from pathlib import Path

import pytest

from rlhf_core.config import SFT, Reward
from rlhf_core.engine.continued import continued_from
from rlhf_core.rundir import StageSpec
from tasks.execution.continuation import continue_stopped
from tasks.execution.stopped_stage import COPIED, progress_of


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
    (run_dir / COPIED).mkdir(parents=True)  # of a copy that was cut off
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


def test_a_linked_file_of_a_copy_that_was_cut_off_is_linked_again(tmp_path):
    first, then = spec_with(), spec_with(2)
    folder, run_dir = stopped(tmp_path, first), tmp_path / f"sft-{then.digest[:12]}"
    run_dir.mkdir()
    best = folder / "best-000002.safetensors"
    best.write_bytes(b"best")
    os.link(best, run_dir / best.name)
    assert continue_stopped(then, run_dir) == folder
    assert os.path.samefile(run_dir / best.name, best)


def test_a_directory_that_goes_or_is_not_readable_is_passed_over(tmp_path):
    """A running stage renames what it writes; `rlhf gc` removes whole directories."""
    first, then = spec_with(), spec_with(2)
    folder, run_dir = stopped(tmp_path, first), tmp_path / f"sft-{then.digest[:12]}"
    run_dir.mkdir()
    (tmp_path / "sft-gone").symlink_to(tmp_path / "nowhere")
    (tmp_path / "sft-notes").write_text("a file")
    further = tmp_path / "sft-further"
    (further / "checkpoints" / "step-000009").mkdir(parents=True)
    (further / ".lock").mkdir()  # no lock can be had
    assert continue_stopped(then, run_dir) == folder
    assert progress_of(tmp_path / "sft-gone") is None


def test_the_furthest_stopped_stage_replaces_the_checkpoints_that_are_here(tmp_path):
    eight, four = spec_with(8), spec_with(4)
    old, new = stopped(tmp_path, eight), stopped(tmp_path, four)
    (new / "checkpoints" / "step-000002").rename(new / "checkpoints" / "step-000006")
    (new / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in range(1, 9)))
    (old / "best-000002.safetensors").write_bytes(b"of the old one")
    assert continue_stopped(eight, old) == new
    assert [path.name for path in (old / "checkpoints").iterdir()] == ["step-000006"]
    assert not (old / "best-000002.safetensors").exists()
    assert len((old / "metrics.jsonl").read_text().splitlines()) == 6
    says = {"continued_from": f"step-000006 of {new.name}, 4 ranks"}
    assert continued_from(old) == says
    assert continue_stopped(eight, old) is None and continue_stopped(four, new) is None


@pytest.mark.parametrize("name", ["reference.safetensors", ".step-4.tmp"])
def test_a_folder_without_a_complete_checkpoint_counts_as_none(tmp_path, name):
    first, then = spec_with(), spec_with(2)
    folder, run_dir = stopped(tmp_path, first), tmp_path / f"sft-{then.digest[:12]}"
    (run_dir / "checkpoints" / name).mkdir(parents=True)
    assert continue_stopped(then, run_dir) == folder
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step-000002"]


@pytest.mark.parametrize("best", [2, 4])
def test_records_of_steps_after_the_checkpoint_are_left_out(tmp_path, best):
    """Miss the weights of an earlier best step once a later one is the best."""
    first, then = spec_with(), spec_with(2)
    folder, run_dir = stopped(tmp_path, first), tmp_path / f"sft-{then.digest[:12]}"
    run_dir.mkdir()
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in (1, 2, 3, 4)))
    (folder / "evaluations.json").write_text(json.dumps([{"step": n} for n in (0, 1, 2, 4)]))
    (folder / f"best-{best:06d}.safetensors").write_bytes(b"best")
    (folder / "onpolicy").mkdir()
    for step in (0, 2, 4):
        (folder / "onpolicy" / f"step-{step:06d}.jsonl").write_text("{}\n")
    assert continue_stopped(then, run_dir) == folder
    assert (run_dir / "metrics.jsonl").read_text() == '{"step": 1}\n{"step": 2}\n'
    evaluated = [one["step"] for one in json.loads((run_dir / "evaluations.json").read_text())]
    assert evaluated == ([0, 1, 2] if best == 2 else [0])
    assert len(list(run_dir.glob("best-*"))) == (1 if best == 2 else 0)
    checks = sorted(path.name for path in (run_dir / "onpolicy").iterdir())
    assert checks == ["step-000000.jsonl", "step-000002.jsonl"]
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 4


def test_a_stopped_ensemble_goes_on_at_its_next_member(tmp_path):
    def reward(ranks: int) -> StageSpec:
        config = {"reward": Reward(ensemble=3).model_dump(mode="json"), "ranks": ranks}
        return StageSpec(stage="reward", seed=1, config=config, inputs={}, code="c")

    folder = tmp_path / f"reward-{reward(1).digest[:12]}"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "config.json").write_text("{}")
    (folder / "spec.json").write_text(reward(1).model_dump_json())
    lines = [json.dumps({"step": n, "steps": 12}) + "\n" for n in range(1, 8)]
    (folder / "metrics.jsonl").write_text("".join(lines))
    for ranks, step in ((2, 0), (4, 2)):
        run_dir = tmp_path / f"reward-{reward(ranks).digest[:12]}"
        run_dir.mkdir()
        if step:
            (folder / "checkpoints" / "member_2" / "step-000002").mkdir(parents=True)
        assert continue_stopped(reward(ranks), run_dir) == folder
        assert (run_dir / "model" / "config.json").exists()
        assert (run_dir / "metrics.jsonl").read_text() == "".join(lines[: 4 + step])
        assert progress_of(run_dir, 3) == (1, step, 3)
