"""The files of a checkpoint: written by every rank, complete or absent, the newest few kept.

Rank 0 writes `state.safetensors`, and every other rank `state-N.safetensors` with what it alone
has. All ranks see one folder: on several hosts a shared file system.
"""

import json
import os
import shutil
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_core.batching.collective import barrier
from rlhf_core.file_modes import follow_umask
from rlhf_core.ranks import is_rank_zero, rank, ranks
from rlhf_core.rundir import write_atomically

CHECKSUM = ".crc32"  # suffix of the file beside each state file, which its rank writes last
RECORD = "extra.json"
SLOWEST_RANK = 1800.0  # seconds that rank 0 waits for the files of the others
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class CheckpointFiles:
    """The files of one checkpoint to be written, of all ranks together."""

    folder: Path
    step: int
    keep: int

    @property
    def _temporary(self) -> Path:
        return self.folder / f".step-{self.step}.tmp"

    def begin(self, record: dict) -> None:
        """Make an empty folder and write the record into it; all ranks take part.

        What killed stages left half written is removed: no other checkpoint is being written now.
        """
        if is_rank_zero():
            self.folder.mkdir(parents=True, exist_ok=True)
            for half_written in self.folder.glob(".step-*.tmp"):
                shutil.rmtree(half_written, ignore_errors=True)
            self._temporary.mkdir()
            write_atomically(self._temporary / RECORD, json.dumps(record))
        barrier()

    def write(self, tensors: dict[str, Tensor]) -> None:
        """Write this rank's tensors; on rank 0 put the checkpoint in place once all have written.

        No rank talks to another one: this may run beside a step that does.
        """
        file = self._temporary / state_file(rank())
        save_file(_unshared(tensors), file)
        follow_umask(file)
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
        write_atomically(file.with_suffix(CHECKSUM), checksum(file))
        if is_rank_zero():
            self._wait_for_all()
            self._put_in_place()

    def _wait_for_all(self) -> None:
        """Wait for every rank's files. Raises TimeoutError."""
        wanted = [(self._temporary / state_file(n)).with_suffix(CHECKSUM) for n in range(ranks())]
        ends = time.monotonic() + SLOWEST_RANK
        while missing := [file.name for file in wanted if not file.exists()]:
            if time.monotonic() > ends:
                raise TimeoutError(
                    f"{self._temporary} has no {', '.join(missing)} after {SLOWEST_RANK:.0f} s;"
                    " expected a file of every rank. All hosts must share this folder."
                )
            time.sleep(POLL_SECONDS)

    def _put_in_place(self) -> None:
        final = self.folder / f"step-{self.step:06d}"
        shutil.rmtree(final, ignore_errors=True)
        self._temporary.rename(final)
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)  # the rename itself
        finally:
            os.close(descriptor)
        for old in newest_first(self.folder)[self.keep :]:
            shutil.rmtree(old)


def state_file(number: int) -> str:
    """Return the name of a rank's file."""
    return f"state-{number}.safetensors" if number else "state.safetensors"


def newest_first(folder: Path) -> list[Path]:
    """Return the complete checkpoints of a folder, the newest first."""
    return sorted(folder.glob("step-*"), reverse=True)


def load_verified(file: Path, load: Callable[[Path], dict[str, Tensor]] = load_file) -> dict:
    """Return the tensors of a state file. Raises ValueError for other bytes than were written."""
    verify(file)
    return load(file)


def verify(file: Path) -> None:
    """Check a state file's bytes. Raises ValueError for others than were written, and OSError."""
    if file.with_suffix(CHECKSUM).read_text(encoding="utf-8") != checksum(file):
        raise ValueError(f"{file.name} holds other bytes than were written")


def checksum(file: Path) -> str:
    """Return the CRC-32, hexadecimal; safetensors itself does not notice a changed weight."""
    found = 0
    with file.open("rb") as data:
        while chunk := data.read(1 << 20):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tied weights, so that each is written: safetensors refuses shared memory.

    Loading ties them again.
    """
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        result[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return result
