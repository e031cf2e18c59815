"""A copy counts when its manifest is there, and is used when every digest is right."""

import json
import os
import signal
from pathlib import Path

import pytest
from mirrored_runs import NAME, SPEC, content, finished_run, remote_in

from tasks.mirror.copies import CopyName, DamagedCopy, Manifest, RunCopies
from tasks.mirror.remote import Remote

STEPS = 6  # five files and the manifest


class KilledAtStep:
    """A file system whose process is killed in the middle of the n-th thing that it writes."""

    def __init__(self, files, step: int):
        self._files, self._left = files, step

    def __getattr__(self, name):
        return getattr(self._files, name)

    def put_file(self, source: str, target: str) -> None:
        self._write(target, Path(source).read_bytes())

    def pipe_file(self, target: str, data: bytes) -> None:
        self._write(target, data)

    def _write(self, target: str, data: bytes) -> None:
        self._left -= 1
        if not self._left:
            self._files.pipe_file(target, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        self._files.pipe_file(target, data)


@pytest.fixture
def run_dir(tmp_path) -> Path:
    return finished_run(tmp_path / "runs")


@pytest.fixture
def copies(tmp_path) -> RunCopies:
    return RunCopies(remote_in(tmp_path / "bucket"), NAME)


def write(copies: RunCopies, run_dir: Path) -> CopyName:
    name = CopyName.new(is_finished=True)
    copies.write(name, run_dir, [Path(path) for path in content(run_dir)], SPEC.digest)
    return name


def test_a_copy_comes_back_byte_for_byte(copies, run_dir, tmp_path):
    name = write(copies, run_dir)
    (found,) = copies.names()
    assert found == name and str(CopyName.read(str(name))) == str(name)
    manifest = copies.manifest(name)
    assert manifest and manifest.digest == SPEC.digest and len(manifest.files) == STEPS - 1
    copies.read(name, manifest, tmp_path / "back")
    assert content(tmp_path / "back") == content(run_dir)


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_a_copy_whose_writer_was_killed_at_any_step_does_not_count(copies, run_dir, step):
    process = os.fork()
    if process == 0:  # a real process, really killed
        remote = copies.remote
        slow = Remote(remote.address, KilledAtStep(remote.files, step), remote.root)
        write(RunCopies(slow, NAME), run_dir)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]) == -signal.SIGKILL
    (name,) = copies.names()
    assert copies.manifest(name) is None
    again = write(copies, run_dir)  # the next try is a copy of its own
    assert {name: copies.manifest(name) is not None for name in copies.names()} == {
        name: False,
        again: True,
    }


def test_a_writer_that_is_not_killed_makes_as_many_steps_as_the_test_above_kills(copies, run_dir):
    remote = copies.remote
    counted = Remote(remote.address, KilledAtStep(remote.files, STEPS + 1), remote.root)
    name = write(RunCopies(counted, NAME), run_dir)
    assert counted.files._left == 1 and copies.manifest(name)


def test_a_file_that_changes_while_it_is_copied_makes_no_copy(copies, run_dir, monkeypatch):
    metrics, put = run_dir / "metrics.jsonl", copies.remote.files.put_file

    def put_and_append(source: str, target: str) -> None:
        put(source, target)
        with metrics.open("a") as file:
            file.write('{"step": 2}\n')

    monkeypatch.setattr(copies.remote.files, "put_file", put_and_append)
    with pytest.raises(OSError, match=r"metrics\.jsonl changed while it was copied"):
        write(copies, run_dir)
    (name,) = copies.names()
    assert copies.manifest(name) is None


def file_of(copies: RunCopies, name: CopyName, path: str) -> Path:
    return Path(copies.remote.root) / "runs" / NAME / str(name) / "files" / path


@pytest.mark.parametrize("damage", ["weighte", "weight", ""])
def test_other_bytes_than_were_copied_are_refused(copies, run_dir, tmp_path, damage):
    name = write(copies, run_dir)
    file_of(copies, name, "model/model.safetensors").write_text(damage)
    with pytest.raises(DamagedCopy, match=r"model/model\.safetensors holds other bytes"):
        copies.read(name, copies.manifest(name), tmp_path / "back")


def test_a_missing_file_is_refused(copies, run_dir, tmp_path):
    name = write(copies, run_dir)
    file_of(copies, name, "metrics.jsonl").unlink()
    with pytest.raises(DamagedCopy, match=r"metrics\.jsonl is missing"):
        copies.read(name, copies.manifest(name), tmp_path / "back")


@pytest.mark.parametrize("path", ["../../.bashrc", "/etc/cron.d/x", "model/../../x"])
def test_a_manifest_cannot_lead_out_of_the_run_directory(copies, run_dir, tmp_path, path):
    name = write(copies, run_dir)
    values = json.loads(copies.manifest(name).model_dump_json())
    values["files"][0]["path"] = path
    with pytest.raises(DamagedCopy, match="outside the run directory"):
        copies.read(name, Manifest.model_validate(values), tmp_path / "a" / "back")


def test_a_removed_copy_loses_its_manifest_first(copies, run_dir):
    name = write(copies, run_dir)
    copies.remote.files.rm(f"{copies.remote.root}/runs/{NAME}/{name}/manifest.json")
    assert copies.manifest(name) is None
    copies.remove(name)  # goes on where a kill was
    assert copies.names() == []


def test_a_run_directory_without_copies_has_none(copies):
    assert copies.names() == []


def test_folders_of_other_names_are_no_copies(copies, run_dir):
    name = write(copies, run_dir)
    (Path(copies.remote.root) / "runs" / NAME / "notes").mkdir()
    assert copies.names() == [name]


def test_a_finished_copy_is_further_than_any_checkpoint_and_a_newer_one_is_before():
    made = ["20260101T000000-aaaaaa", "20260102T000000-aaaaaa"]
    checkpoints = [CopyName(False, 0, 100, made[1]), CopyName(False, 1, 2, made[0])]
    finished = [CopyName(True, 0, 0, day) for day in made]
    assert sorted([*finished, *checkpoints]) == [*checkpoints, *finished]
