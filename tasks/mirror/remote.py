"""The remote of a workspace: the folder in an object store that RLHF_REMOTE names."""

import contextlib
import json
import logging
import os
from dataclasses import dataclass
from typing import Any

from rlhf_core.buckets import (
    CREDENTIALS,
    file_system,
    is_absent,
    is_address,
    is_refused,
    lacks_credentials,
    reason,
)
from rlhf_core.errors import BadInput
from rlhf_core.rundir import write_atomically
from tasks.mirror.azure_token import require_token
from tasks.records.workspace import TEMPLATE_DATE, Workspace

VARIABLE = "RLHF_REMOTE"
MARK = "rlhf-remote.json"  # says what the folder is, and proves that it can be written
log = logging.getLogger("rlhf.mirror")


@dataclass(frozen=True)
class Remote:
    """A folder in an object store. files: fsspec's file system; root: the folder's path in it."""

    address: str
    files: Any
    root: str

    @classmethod
    def here(cls) -> "Remote | None":
        """Return the remote that RLHF_REMOTE names, None where it is not set. Raises BadInput."""
        address = os.environ.get(VARIABLE, "").strip().rstrip("/")
        if not address:
            return None
        if not is_address(address):
            raise BadInput(
                f"{VARIABLE} is {address!r}; expected an address such as s3://bucket/folder."
            )
        return cls(address, *file_system(VARIABLE, address))

    def require_usable(self) -> None:
        """Check that the folder can be written.

        Raises BadInput where the store refuses. A store that does not answer costs a warning.
        """
        try:
            require_token(self.files)
            self.files.pipe_file(f"{self.root}/{MARK}", json.dumps({"format": 1}).encode())
        except Exception as error:
            if is_absent(error) or is_refused(error) or lacks_credentials(error):
                raise self._refused(error) from error
            self.warn(error)

    def warn(self, error: BaseException) -> None:
        """Say that the store did not answer."""
        log.warning("%s does not answer (%s); training goes on.", self.address, reason(error))

    def share_template_date(self, workspace: Workspace) -> None:
        """Take over the day that chat templates print, or hand on this workspace's.

        It is part of a stage's identity: another machine finds finished stages by the same day.
        """
        here, there = workspace.home / TEMPLATE_DATE, f"{self.root}/{TEMPLATE_DATE}"
        with contextlib.suppress(FileNotFoundError):
            text = self.files.cat_file(there).decode()
            if not here.exists():
                write_atomically(here, text)
            return
        if here.exists():
            self.files.pipe_file(there, here.read_bytes())

    def _refused(self, error: BaseException) -> BadInput:
        if lacks_credentials(error):
            places = CREDENTIALS.get(self.address.partition("://")[0], "those of the store")
            return BadInput(
                f"{VARIABLE} is {self.address}, and there are no credentials ({reason(error)});"
                f" expected {places}. Set them, or unset {VARIABLE}."
            )
        return BadInput(
            f"{VARIABLE} is {self.address}, which cannot be written ({reason(error)}); expected a"
            " bucket that is there and that your credentials may write. Correct it, or unset it."
        )
