"""The unfinished stages in the remote, by their work: found by the same stage on other ranks.

work/<digest of the work>/<run directory>  the stage's spec; its checkpoints are among its copies
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

from pydantic import ValidationError

from rlhf_core.digest import digest_json
from rlhf_core.rundir import StageSpec
from tasks.execution.continuation import same_work
from tasks.mirror.remote import Remote


@dataclass(frozen=True)
class WorkIndex:
    """The notes about unfinished stages of one remote."""

    remote: Remote

    def note(self, spec: StageSpec, run: str) -> None:
        """Note that a run directory of this name has checkpoints of a stage."""
        place = f"{self._folder(spec)}/{run}"
        self.remote.files.pipe_file(place, spec.model_dump_json().encode())

    def forget(self, spec: StageSpec, run: str) -> None:
        """Remove the note, which a finished stage does not need."""
        with contextlib.suppress(FileNotFoundError):
            self.remote.files.rm_file(f"{self._folder(spec)}/{run}")

    def others(self, spec: StageSpec, run: str) -> Iterator[tuple[str, StageSpec]]:
        """Yield name and spec of the other run directories that have checkpoints of this work."""
        files = self.remote.files
        files.invalidate_cache()
        try:
            found = files.ls(self._folder(spec), detail=False)
        except FileNotFoundError:
            return
        for path in sorted(found):
            name = PurePosixPath(path).name
            with contextlib.suppress(FileNotFoundError, ValidationError):
                theirs: StageSpec = StageSpec.model_validate_json(files.cat_file(path))
                # a name leads to no other place than its spec's
                if name != run and name == f"{theirs.stage}-{theirs.digest[:12]}":
                    yield name, theirs

    def _folder(self, spec: StageSpec) -> str:
        return f"{self.remote.root}/work/{digest_json(same_work(spec))[:16]}"
