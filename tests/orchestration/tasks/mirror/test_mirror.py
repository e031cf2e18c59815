"""Stages with a remote: found finished, gone on with, and trained although nobody answers."""

import json
import logging
import shutil
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from mirrored_runs import NAME, SPEC, content, finished_run
from stages import section_spec, splits_of

from rlhf_core.config import SFT
from rlhf_core.rundir import StageSpec, read_metrics, read_result
from tasks.cleanup.retention import in_use
from tasks.execution.stage_process import run_stage
from tasks.mirror import marks, mirror
from tasks.mirror.copies import RunCopies
from tasks.mirror.remote import Remote
from tasks.records.workspace import Workspace

STAGE = """
    import pathlib, sys
    from rlhf_core.rundir import Artifact, StageResult, StageSpec, write_atomically
    stage, spec, run = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3])
    spec = StageSpec.model_validate_json(pathlib.Path(spec).read_text())
    reached = sorted(run.glob("checkpoints/step-*/state"))
    first = int(reached[-1].read_text()) if reached else 0
    for step in range(first + 1, 5):
        with (run / "steps").open("a") as file:
            file.write(f"{step}\\n")
        folder = run / "checkpoints" / f".step-{step}"
        folder.mkdir(parents=True)
        (folder / "state").write_text(str(step))
        folder.rename(run / "checkpoints" / f"step-{step:06d}")
        if step == 2 and not first:
            import time
            copies = pathlib.Path(__file__).parent / "bucket" / "runs"
            while not list(copies.glob("*/checkpoint-0-000002-*/manifest.json")):
                time.sleep(0.02)
            sys.exit(1)
    (run / "model").mkdir(exist_ok=True)
    (run / "model" / "weights").write_text("w")
    outputs = {"model": Artifact(path="model", digest=Artifact.of(run / "model").digest)}
    result = StageResult(stage=stage, digest=spec.digest, outputs=outputs, seconds=1.0)
    write_atomically(run / "result.json", result.model_dump_json())
"""


@pytest.fixture
def bucket(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "bucket"
    monkeypatch.setenv("RLHF_REMOTE", f"file://{folder}")
    return folder


@pytest.fixture
def stage_of_four(tmp_path) -> tuple[str, ...]:
    """A stage of four steps, which fails at the second one when its checkpoint is in the bucket."""
    file = tmp_path / "stage.py"
    file.write_text(textwrap.dedent(STAGE))
    return (sys.executable, str(file))


def workspace(tmp_path: Path, name: str) -> Workspace:
    (tmp_path / name / "runs").mkdir(parents=True)
    return Workspace(tmp_path / name)


def test_a_stage_goes_on_and_is_found_finished_on_machines_that_have_nothing(
    bucket, stage_of_four, tmp_path
):
    first, second, third = (workspace(tmp_path, name) for name in ("1", "2", "3"))
    run_dirs = [one.run_dir(SPEC) for one in (first, second, third)]
    with pytest.raises(Exception, match="exit code 1"):
        run_stage(SPEC, run_dirs[0], command=stage_of_four)
    shutil.rmtree(first.home)  # the disk is lost
    done = run_stage(SPEC, run_dirs[1], command=stage_of_four)
    assert not done.cached and (run_dirs[1] / "steps").read_text() == "1\n2\n3\n4\n"
    mirror.end(second, [run_dirs[1]])
    found = run_stage(SPEC, run_dirs[2], command=("false",))
    assert found.cached and found.result.outputs["model"].path == run_dirs[2] / "model"
    assert content(run_dirs[2])["model/weights"] == b"w"


def test_nothing_is_copied_without_a_remote(tmp_path, monkeypatch):
    monkeypatch.delenv("RLHF_REMOTE", raising=False)
    home = workspace(tmp_path, "1")
    finished_run(home.runs)
    assert mirror.fetch(SPEC, home.run_dir(SPEC)) is None and mirror.mirror_all(home) is None
    mirror.begin(home)
    mirror.end(home, [home.run_dir(SPEC)])
    assert not (home.run_dir(SPEC) / ".mirrored.json").exists()


def test_a_store_that_does_not_answer_stops_no_stage(bucket, stage_of_four, tmp_path, caplog):
    bucket.write_text("a file where the bucket's folder should be")
    home = workspace(tmp_path, "1")
    run_dir = home.run_dir(SPEC)
    (run_dir / "checkpoints" / "step-000003").mkdir(parents=True)
    (run_dir / "checkpoints" / "step-000003" / "state").write_text("3")
    done = run_stage(SPEC, run_dir, command=stage_of_four)
    assert not done.cached
    mirror.end(home, [run_dir])
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert any(f"not in file://{bucket}: {NAME}" in line and "rlhf sync" in line for line in said)
    bucket.unlink()
    report = mirror.mirror_all(home)
    assert report and report.mirrored == [NAME] and report.waiting == []


def test_sync_copies_what_was_finished_before_there_was_a_remote(bucket, rlhf, home):
    run_dir = finished_run(home / "runs")
    code, out, _ = rlhf("sync")
    assert code == 0 and f"copied to file://{bucket}: {NAME}" in out
    assert json.loads((run_dir / ".mirrored.json").read_text())["remote"] == f"file://{bucket}"
    code, out, _ = rlhf("sync", "--json")
    assert code == 0 and json.loads(out)["mirror"]["mirrored"] == []


def test_sync_says_what_the_remote_did_not_take(bucket, rlhf, home):
    finished_run(home / "runs")
    bucket.write_text("no folder")
    code, _, err = rlhf("sync")
    assert code == 1 and f"{NAME} must wait" in err


def test_the_remote_is_checked_before_a_run(bucket, rlhf, monkeypatch):
    monkeypatch.setenv("RLHF_REMOTE", "ftp://host/folder")
    code, _, err = rlhf("run", "quickstart")
    assert code == 2 and "RLHF_REMOTE begins with ftp://" in err


@pytest.mark.slow  # two runs of the pipeline
def test_a_run_repeats_nothing_on_a_machine_that_has_nothing(
    bucket, rlhf, home, recipe_file, monkeypatch, tmp_path, empty_store
):
    code, out, err = rlhf("run", str(recipe_file), "--until", "sft", "--json")
    assert code == 0, err
    rows = {row["stage"]: row for row in json.loads(out)["stages"]}
    other = tmp_path / "other"
    other.mkdir()
    shutil.copy(empty_store, other / "mlflow.db")
    monkeypatch.setenv("RLHF_HOME", str(other))
    code, out, err = rlhf("run", str(recipe_file), "--from", "sft", "--until", "sft", "--json")
    assert code == 0, err
    again = {row["stage"]: row for row in json.loads(out)["stages"]}
    assert again.keys() == rows.keys() and all(row["cached"] for row in again.values())
    assert not (other / "runs" / "started.log").exists()  # no stage program ran
    for name, row in again.items():
        theirs, ours = (
            json.loads(Path(one["run_dir"], "result.json").read_text())["outputs"]
            for one in (rows[name], row)
        )
        assert theirs == ours
    code, out, _ = rlhf("status", "--json")
    assert json.loads(out)[0]["not_mirrored"] == []
    monkeypatch.setenv("RLHF_REMOTE", f"file://{tmp_path}/elsewhere")
    assert json.loads(rlhf("status", "--json")[1])[0]["not_mirrored"] == ["validate", "sft"]
    assert "not in RLHF_REMOTE yet: validate, sft: rlhf sync" in " ".join(rlhf("status")[1].split())


def test_the_remote_of_the_environment_is_read_each_time(bucket):
    assert Remote.here() and mirror.uploader_here() is mirror.uploader_here()


def killed_after_a_copy(spec: StageSpec, home: Workspace) -> RunCopies:
    """Run a stage until a checkpoint of it is in the bucket, kill it, and return its copies."""
    copies = RunCopies(Remote.here(), home.run_dir(spec).name)
    process = subprocess.Popen([sys.executable, "-c", PROGRAM, spec.model_dump_json(), home.home])
    wait_until(lambda: any(map(copies.manifest, copies.names())), process)
    process.kill()
    process.wait()
    wait_until(lambda: not in_use(home.run_dir(spec)))
    return copies


@pytest.mark.slow  # two trainings
def test_a_training_whose_machine_dies_ends_elsewhere_with_the_same_bytes(
    s3, monkeypatch, tmp_path, tiny_model, tiny_splits
):
    """SIGKILL half way, the workspace deleted, and another one that has the bucket alone."""
    section = SFT(lr=3e-3, epochs=20, batch_size=8, checkpoint_every=20)
    inputs = splits_of(tiny_splits, "demonstrations_train", "demonstrations_heldout")
    spec = section_spec("sft", section, {"model": tiny_model} | inputs, train=True)
    monkeypatch.delenv("RLHF_REMOTE", raising=False)
    plain = run_stage(spec, tmp_path / "plain" / "run").result.outputs["model"].digest

    s3.use(monkeypatch)
    monkeypatch.setenv("RLHF_REMOTE", "s3://team/dies")
    homes = [workspace(tmp_path, name) for name in ("lost", "new")]
    copies = killed_after_a_copy(spec, homes[0])
    assert not (homes[0].run_dir(spec) / "result.json").exists()
    shutil.rmtree(homes[0].home)

    began = time.time()
    command = [sys.executable, "-c", PROGRAM, spec.model_dump_json(), homes[1].home]
    subprocess.run(command, check=True)
    run_dir = homes[1].run_dir(spec)
    lines = read_metrics(run_dir / "metrics.jsonl")
    assert lines[19]["time"] < began < lines[-1]["time"]  # the first checkpoint's steps were kept
    assert read_result(run_dir).outputs["model"].digest == plain
    (name,) = copies.names()
    assert (
        name.is_finished and copies.manifest(name) and marks.is_mirrored(run_dir, "s3://team/dies")
    )


@pytest.mark.slow  # two trainings
@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_a_training_goes_on_elsewhere_on_another_number_of_ranks(
    s3, monkeypatch, tmp_path, tiny_model, tiny_splits, first, then
):
    section = SFT(lr=3e-3, epochs=20, batch_size=8, checkpoint_every=20)
    inputs = splits_of(tiny_splits, "demonstrations_train", "demonstrations_heldout")
    inputs |= {"model": tiny_model}
    spec, other = (
        section_spec("sft", section, inputs, train=True, ranks=ranks) for ranks in (first, then)
    )
    s3.use(monkeypatch)
    monkeypatch.setenv("RLHF_REMOTE", f"s3://team/ranks-{first}-{then}")
    homes = [workspace(tmp_path, name) for name in ("lost", "new")]
    killed_after_a_copy(spec, homes[0])
    shutil.rmtree(homes[0].home)

    began = time.time()
    command = [sys.executable, "-c", PROGRAM, other.model_dump_json(), homes[1].home]
    subprocess.run(command, check=True)
    run_dir = homes[1].run_dir(other)
    lines = read_metrics(run_dir / "metrics.jsonl")
    assert lines[19]["time"] < began < lines[-1]["time"]  # the first checkpoint's steps were kept
    (one,) = json.loads((run_dir / "continued.json").read_text())
    assert (one["run_dir"], one["ranks"]) == (homes[0].run_dir(spec).name, first)
    assert read_result(run_dir).outputs


PROGRAM = """
import sys
from pathlib import Path
from rlhf_core.config import Distributed
from rlhf_core.rundir import StageSpec
from tasks.execution.stage_process import run_stage
from tasks.mirror import marks, mirror
from tasks.mirror.copies import RunCopies
from tasks.records.workspace import Workspace
spec, workspace = StageSpec.model_validate_json(sys.argv[1]), Workspace(Path(sys.argv[2]))
run_stage(spec, workspace.run_dir(spec), distributed=Distributed(ranks=spec.ranks))
mirror.end(workspace, [workspace.run_dir(spec)])
"""


def wait_until(condition, process: subprocess.Popen | None = None) -> None:
    end = time.monotonic() + 300  # on a busy machine
    while not condition():
        assert time.monotonic() < end and (process is None or process.poll() is None)
        time.sleep(0.05)
