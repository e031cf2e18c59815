"""`python run_stages.py RUN_DIR...`: run the stages of these folders' specs, one after the other.

Under a launcher every rank runs it. One start of the libraries serves many stages.
"""

import sys
from pathlib import Path

from rlhf_core.__main__ import run_stage
from rlhf_core.batching.collective import barrier
from rlhf_core.rundir import RunDir, StageSpec

for number, folder in enumerate(map(Path, sys.argv[1:])):
    if number:
        barrier()
    run_stage(StageSpec.model_validate_json((folder / "spec.json").read_text()), RunDir(folder))
