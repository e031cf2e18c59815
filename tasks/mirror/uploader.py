"""The thread that copies run directories to the remote while stages train.

It belongs to the process that follows the stages. One copy is written at a time, in the order in
which stages came to have something to copy. A store that does not answer stops nothing: the copies
wait, and are tried again after a pause that grows.
"""

import logging
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from rlhf_core.buckets import reason
from rlhf_core.rundir import StageSpec
from tasks.execution.continuation import spec_of
from tasks.execution.stopped_stage import Progress, members_of, progress_of
from tasks.mirror import marks, snapshot
from tasks.mirror.copies import CopyName, RunCopies
from tasks.mirror.remote import Remote
from tasks.mirror.work_index import WorkIndex

KEPT = 2  # checkpoints of a stage in the remote: the one before serves if the newest is damaged
FIRST_PAUSE, LONGEST_PAUSE = 15.0, 300.0  # seconds after a failure
LOOK_SECONDS = 1.0  # between two looks at a running stage's checkpoints
log = logging.getLogger("rlhf.mirror")


@dataclass(frozen=True)
class Upload:
    """A run directory that the remote is to have, as it is when its turn has come."""

    run_dir: Path
    digest: str  # of the stage's spec
    members: int = 1

    def run(self, remote: Remote) -> None:
        """Write a copy of the finished stage, or of its newest checkpoint, unless it is there."""
        copies = RunCopies(remote, self.run_dir.name)
        if (self.run_dir / "result.json").exists():
            self._finished(copies)
            return
        reached = progress_of(self.run_dir, self.members)
        if reached is None or not reached.step:
            return
        name = CopyName.new(is_finished=False, members=reached.finished, step=reached.step)
        if self._there(copies, name):
            return
        try:
            with snapshot.taken(self.run_dir, reached) as (folder, paths):
                copies.write(name, folder, paths, self.digest)
        except snapshot.Unsteady as problem:
            log.info("%s", problem)
            return
        if spec := spec_of(self.run_dir):
            WorkIndex(remote).note(spec, self.run_dir.name)
        self._tidy(copies, name)

    def _finished(self, copies: RunCopies) -> None:
        address = copies.remote.address
        if marks.is_mirrored(self.run_dir, address):
            return
        snapshot.drop_left_over(self.run_dir)
        name = CopyName.new(is_finished=True)
        there = self._there(copies, name)
        if there is None:
            copies.write(name, self.run_dir, snapshot.files_of_finished(self.run_dir), self.digest)
        self._tidy(copies, there or name)
        if spec := spec_of(self.run_dir):
            WorkIndex(copies.remote).forget(spec, self.run_dir.name)
        marks.note_mirrored(self.run_dir, address, str(there or name))

    def _there(self, copies: RunCopies, name: CopyName) -> CopyName | None:
        """Return a complete copy that is as far as `name` and was never refused."""
        refused = marks.refused(self.run_dir)
        for found in copies.names():
            if found[:3] >= name[:3] and str(found) not in refused and copies.manifest(found):
                return found
        return None

    def _tidy(self, copies: RunCopies, kept: CopyName) -> None:
        """Remove the copies that `kept` makes needless, and what is damaged or half written."""
        names, refused = copies.names(), marks.refused(self.run_dir)
        good = [
            name
            for name in names
            if name == kept
            or (name < kept and str(name) not in refused and copies.manifest(name) is not None)
        ]
        stay = good[: 1 if kept.is_finished else KEPT]
        for name in names:
            if name not in stay and (name < kept or str(name) in refused):
                copies.remove(name)


class Uploader:
    """The uploads of this process to one remote, and the thread that does them."""

    def __init__(self, remote: Remote):
        self.remote = remote
        self._wanted: dict[Path, Upload] = {}
        self._given_up: dict[Path, Upload] = {}  # failed while somebody waited
        self._busy: Path | None = None
        self._waiting = 0  # calls of `drain` that wait
        self._condition = threading.Condition()
        self._thread: threading.Thread | None = None
        self._next_try, self._pause = 0.0, FIRST_PAUSE
        self._looked: dict[Path, tuple[float, Progress | None]] = {}
        self.problem: str | None = None  # why the remote is behind

    def look(self, spec: StageSpec, run_dir: Path) -> None:
        """Have the newest checkpoint of a running stage copied, if there is a new one."""
        at, seen = self._looked.get(run_dir, (0.0, None))
        if time.monotonic() < at + LOOK_SECONDS:
            return
        members = members_of(spec)
        reached = progress_of(run_dir, members)
        self._looked[run_dir] = time.monotonic(), reached
        if reached and reached.step and reached != seen:
            self.want(Upload(run_dir, spec.digest, members))

    def want(self, upload: Upload) -> None:
        """Have a run directory copied as soon as its turn comes."""
        with self._condition:
            self._wanted.setdefault(upload.run_dir, upload)
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="mirror", daemon=True)
                self._thread.start()
            self._condition.notify_all()

    def drain(self, run_dirs: list[Path]) -> list[Path]:
        """Wait until each of these was copied or has failed once more; return those that failed."""
        with self._condition:
            for run_dir in run_dirs:
                if upload := self._given_up.pop(run_dir, None):
                    self._wanted.setdefault(run_dir, upload)
            self._waiting, self._next_try = self._waiting + 1, 0.0
            self._condition.notify_all()
            try:
                while any(path in self._wanted or path == self._busy for path in run_dirs):
                    self._condition.wait(1.0)
            finally:
                self._waiting -= 1
            return [path for path in run_dirs if path in self._given_up]

    def _work(self) -> None:
        while True:
            with self._condition:
                while not self._wanted or time.monotonic() < self._next_try:
                    self._condition.wait(1.0 if self._wanted else None)
                run_dir = next(iter(self._wanted))
                upload = self._wanted.pop(run_dir)
                self._busy = run_dir
            try:
                upload.run(self.remote)
                failure = None
            except Exception as error:
                failure = error
            with self._condition:
                self._busy = None
                self._note(upload, failure)
                self._condition.notify_all()

    def _note(self, upload: Upload, failure: Exception | None) -> None:
        if failure is None:
            self.problem, self._pause = None, FIRST_PAUSE
            return
        if not upload.run_dir.exists():
            return
        if not self.problem:
            log.warning(
                "%s could not be copied to %s (%s); training goes on, it is tried again.",
                upload.run_dir.name,
                self.remote.address,
                reason(failure),
            )
        self.problem = reason(failure)
        if self._waiting:
            self._given_up[upload.run_dir] = upload
            return
        self._wanted.setdefault(upload.run_dir, upload)
        self._next_try = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, LONGEST_PAUSE)
