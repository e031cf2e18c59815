"""Uploads: what is copied when, what is removed, and a store that does not answer for a while."""

import logging
import time
from pathlib import Path

import pytest
from mirrored_runs import NAME, SPEC, add_checkpoint, finished_run, remote_in, stopped_run

from tasks.mirror import marks, uploader
from tasks.mirror.copies import CopyName, RunCopies
from tasks.mirror.remote import Remote
from tasks.mirror.uploader import Upload, Uploader


class Gate:
    """A file system that can be out of reach."""

    def __init__(self, files):
        self._files, self.is_open = files, True

    def __getattr__(self, name):
        if not self.is_open:
            raise ConnectionError("nobody is there")
        return getattr(self._files, name)


@pytest.fixture
def remote(tmp_path):
    return remote_in(tmp_path / "bucket")


@pytest.fixture
def gate(remote) -> Gate:
    return Gate(remote.files)


@pytest.fixture
def uploads(remote, gate, monkeypatch) -> Uploader:
    monkeypatch.setattr(uploader, "FIRST_PAUSE", 0.05)
    monkeypatch.setattr(uploader, "LOOK_SECONDS", 0.0)
    return Uploader(Remote(remote.address, gate, remote.root))


def kinds(remote) -> list[tuple[bool, int]]:
    """Return (finished, step) of the complete copies, the furthest first."""
    copies = RunCopies(remote, NAME)
    return [name[::2][:2] for name in copies.names() if copies.manifest(name)]


def wait_until(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def test_two_checkpoints_stay_and_none_after_the_stage_has_finished(remote, tmp_path):
    run_dir = stopped_run(tmp_path / "runs")
    for step in (4, 6, 8):
        if step > 4:
            add_checkpoint(run_dir, step)
        for _ in range(2):  # the second one finds it there
            Upload(run_dir, SPEC.digest).run(remote)
    assert kinds(remote) == [(False, 8), (False, 6)]
    finished_run(tmp_path / "other")
    for name in ("result.json", "model"):
        (tmp_path / "other" / NAME / name).rename(run_dir / name)
    Upload(run_dir, SPEC.digest).run(remote)
    assert kinds(remote) == [(True, 0)]
    assert marks.not_mirrored([run_dir], remote.address) == []
    assert marks.not_mirrored([run_dir], "s3://elsewhere") == [run_dir]


def test_what_killed_uploads_left_is_removed_by_the_next_one(remote, tmp_path):
    half = CopyName.new(is_finished=False, step=4)
    remote.files.pipe_file(f"{remote.root}/runs/{NAME}/{half}/files/metrics.jsonl", b"{")
    run_dir = stopped_run(tmp_path / "runs", step=6)
    Upload(run_dir, SPEC.digest).run(remote)
    (name,) = RunCopies(remote, NAME).names()
    assert name.step == 6


def test_two_machines_that_finish_the_same_stage_make_one_copy(remote, tmp_path):
    for machine in ("one", "other"):
        run_dir = finished_run(tmp_path / machine)
        Upload(run_dir, SPEC.digest).run(remote)
        assert marks.is_mirrored(run_dir, remote.address)
    assert kinds(remote) == [(True, 0)]


def test_a_checkpoint_is_not_copied_where_the_finished_stage_is(remote, tmp_path):
    Upload(finished_run(tmp_path / "one"), SPEC.digest).run(remote)
    Upload(stopped_run(tmp_path / "other"), SPEC.digest).run(remote)
    assert kinds(remote) == [(True, 0)]


def test_a_running_stage_has_each_new_checkpoint_copied(remote, uploads, tmp_path):
    run_dir = stopped_run(tmp_path / "runs")
    uploads.look(SPEC, run_dir)
    wait_until(lambda: kinds(remote) == [(False, 4)])
    add_checkpoint(run_dir, 6)
    uploads.look(SPEC, run_dir)
    wait_until(lambda: kinds(remote) == [(False, 6), (False, 4)])
    assert uploads.drain([run_dir]) == []


def test_a_store_that_does_not_answer_is_tried_again(remote, uploads, gate, tmp_path, caplog):
    gate.is_open = False
    run_dir = finished_run(tmp_path / "runs")
    uploads.want(Upload(run_dir, SPEC.digest))
    wait_until(lambda: uploads.problem)
    assert uploads.problem == "ConnectionError: nobody is there"
    gate.is_open = True
    wait_until(lambda: kinds(remote) == [(True, 0)])
    assert uploads.drain([run_dir]) == [] and uploads.problem is None
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 1 and "training goes on" in warnings[0].getMessage()


def test_the_end_of_a_run_says_what_is_not_there_and_a_later_end_copies_it(
    remote, uploads, gate, tmp_path
):
    gate.is_open = False
    run_dir = finished_run(tmp_path / "runs")
    uploads.want(Upload(run_dir, SPEC.digest))
    assert uploads.drain([run_dir]) == [run_dir]
    assert marks.not_mirrored([run_dir], remote.address) == [run_dir]
    gate.is_open = True
    assert uploads.drain([run_dir]) == [] and kinds(remote) == [(True, 0)]


def test_the_snapshot_of_a_killed_upload_goes_with_the_next_copy(remote, tmp_path):
    run_dir = finished_run(tmp_path / "runs")
    (run_dir / ".mirror").mkdir()
    Upload(run_dir, SPEC.digest).run(remote)
    assert not (run_dir / ".mirror").exists() and kinds(remote) == [(True, 0)]


def test_a_run_directory_that_was_removed_is_forgotten(uploads, tmp_path):
    gone = tmp_path / "runs" / Path(NAME)
    uploads.want(Upload(gone, SPEC.digest))
    assert uploads.drain([gone]) == []
