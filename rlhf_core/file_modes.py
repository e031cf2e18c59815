"""The mode of weights: safetensors writes them for their owner alone, whatever the umask.

Every other file of a run follows the umask, which says who may read what a user writes
(https://github.com/huggingface/safetensors/issues/782).
"""

import os
from pathlib import Path

STATUS = Path("/proc/self/status")
WEIGHTS = "*.safetensors"


def usual_mode() -> int:
    """Return the mode of a file that this process makes: 0666 without the umask's bits."""
    return 0o666 & ~_umask()


def follow_umask(path: Path) -> None:
    """Give a file, or all weights below a folder, the mode of any other new file."""
    for file in [path] if path.is_file() else path.rglob(WEIGHTS):
        file.chmod(usual_mode())


def _umask() -> int:
    """Return the umask, without setting it where Linux tells it: it is one for all threads."""
    try:
        lines = STATUS.read_text(encoding="utf-8").splitlines()
        return int(next(line.split()[1] for line in lines if line.startswith("Umask:")), 8)
    except (OSError, StopIteration):
        found = os.umask(0o077)
        os.umask(found)
        return found
