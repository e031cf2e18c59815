"""`python run_stages.py [--stop] RUN_DIR...`: run the stages of these folders' specs in turn.

Under a launcher every rank runs it. One start of the libraries serves many stages.
--stop: end each stage right after its first checkpoint, as a kill would.
"""

import contextlib
import sys
from pathlib import Path

import pytest

from rlhf_core.__main__ import run_stage
from rlhf_core.batching.collective import barrier
from rlhf_core.engine.checkpoint import Checkpoint
from rlhf_core.engine.checkpoint_writer import CheckpointWriter
from rlhf_core.rundir import RunDir, StageSpec

folders = [Path(argument) for argument in sys.argv[1:] if argument != "--stop"]
if "--stop" in sys.argv:
    save = CheckpointWriter.save

    def save_and_stop(writer: CheckpointWriter, checkpoint: Checkpoint) -> None:
        save(writer, checkpoint)
        raise KeyboardInterrupt

    pytest.MonkeyPatch().setattr(CheckpointWriter, "save", save_and_stop)
for number, folder in enumerate(folders):
    if number:
        barrier()
    with contextlib.suppress(KeyboardInterrupt):
        run_stage(StageSpec.model_validate_json((folder / "spec.json").read_text()), RunDir(folder))
