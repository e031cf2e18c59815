"""The folder of the files that a stage needs only while it runs: the system's for temporary files.

TMPDIR names it. A folder that lies in main memory (tmpfs) is refused: it would save none.
"""

import tempfile
from pathlib import Path

import psutil

from rlhf_core.config import Training
from rlhf_core.errors import BadInput

IN_MEMORY = ("tmpfs", "ramfs")


def moments_folder(training: Training, *, cuda: bool) -> Path | None:
    """Return the folder for AdamW's moments on disk; None for a stage that has them in memory.

    cuda: its models learn on GPUs. Raises BadInput where the moments cannot be on disk.
    """
    if training.offload_optimizer != "disk":
        return None
    if cuda and training.zero_stage == 0:
        raise BadInput(
            "offload_optimizer 'disk' with zero_stage 0 on GPUs: DeepSpeed offloads from ZeRO 1 on;"
            " set zero_stage to 1, 2 or 3"
        )
    folder = Path(tempfile.gettempdir())
    kind = _file_system(folder)
    if kind in IN_MEMORY:
        raise BadInput(
            f"offload_optimizer 'disk' with temporary files in {folder}, which is in main memory"
            f" ({kind}); expected a folder on a disk: set TMPDIR to one"
        )
    return folder


def _file_system(folder: Path) -> str:
    """Return the type of the file system that a folder is on."""
    mounted = {one.mountpoint: one.fstype for one in psutil.disk_partitions(all=True)}
    own = folder.resolve()
    return next((mounted[str(one)] for one in (own, *own.parents) if str(one) in mounted), "")
