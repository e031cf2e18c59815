"""The times at which a stage writes its checkpoints, and the writing beside its steps."""

import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

import torch
from torch import Tensor

from rlhf_core.batching.collective import gathered
from rlhf_core.config import Training
from rlhf_core.engine.checkpoint import Checkpoint, begin, own_tensors
from rlhf_core.engine.checkpoint_files import CheckpointFiles
from rlhf_core.errors import LimitReached, StageFailed


def writes_beside_steps(config: Training) -> bool:
    """Return True if checkpoints are written while training goes on."""
    if config.async_checkpoints is None:
        return torch.cuda.is_available()
    return config.async_checkpoints


class CheckpointWriter:
    """A stage's checkpoints: when one is due, and a thread that writes it from a copy.

    At most one is being written. The block waits for it when it ends, also by an exception: the
    last good checkpoint is kept.
    """

    def __init__(
        self,
        folder: Path,
        config: Training,
        *,
        block: int = 1,
        clock: Callable[[], float] = time.monotonic,
        stop: Path | None = None,
    ):
        """Write below `folder`, after multiples of `block` steps only.

        clock: seconds. stop: a file that asks for the end of the stage, once it is there.
        """
        self.folder, self._config, self._block, self._clock = folder, config, block, clock
        self._stop, self._is_stopped = stop, False
        self._beside_steps = writes_beside_steps(config)
        # when the last checkpoint was taken, the last block of steps ended
        self._saved = self._stepped = clock()
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except StageFailed as failure:
            if error is None:
                raise
            print(failure)  # the stage's own error comes first

    def due(self, step: int) -> bool:
        """Return True if a checkpoint is to be saved after this step; all ranks call it and agree.

        It is due after every `checkpoint_every` steps, before another block of steps as long as
        this one would exceed `checkpoint_minutes`, and where the stage is asked to stop. Raises
        StageFailed where the last one was not written.
        """
        self._raise_error()
        if step % self._block:
            return False
        now = self._clock()
        next_end = now + (now - self._stepped)
        late = next_end - self._saved > 60 * self._config.checkpoint_minutes
        self._stepped = now
        asked = self._stop is not None and self._stop.exists()
        late, self._is_stopped = gathered([late, asked])[0]  # by rank 0, on the host of the asker
        return step % self._config.checkpoint_every == 0 or late or self._is_stopped

    def save(self, checkpoint: Checkpoint) -> None:
        """Save a checkpoint, when the one before it is written; all ranks take part.

        Raises StageFailed where that one was not written, and LimitReached where the stage is asked
        to stop, once this one is written.
        """
        self._begin(checkpoint)
        if self._is_stopped:
            self.wait()
            raise LimitReached(f"stopped after step {checkpoint.step}, with a checkpoint")

    def _begin(self, checkpoint: Checkpoint) -> None:
        self.wait()
        self._saved = self._clock()
        files = begin(self.folder, checkpoint, keep=self._config.keep_checkpoints)
        tensors = own_tensors(checkpoint, copy=self._beside_steps)
        if not self._beside_steps:
            files.write(tensors)
            return
        self._thread = threading.Thread(
            target=self._write, args=(files, tensors), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Wait until the last checkpoint is written. Raises StageFailed where it was not."""
        if self._thread:
            self._thread.join()
            self._thread = None
        self._raise_error()

    def _write(self, files: CheckpointFiles, tensors: dict[str, Tensor]) -> None:
        try:
            files.write(tensors)
        except BaseException as error:  # raised again in the stage's own thread
            self._error = error

    def _raise_error(self) -> None:
        if self._error:
            error, self._error = self._error, None
            raise StageFailed(
                f"a checkpoint in {self.folder} could not be written"
                f" ({type(error).__name__}: {error}); the one before it is complete"
            ) from error
