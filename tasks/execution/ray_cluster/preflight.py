"""Check a recipe's Ray cluster before anything runs."""

import subprocess
from pathlib import Path

from rlhf_core.config import Distributed
from rlhf_core.errors import BadInput, StageFailed
from tasks.execution import launcher
from tasks.execution.ray_cluster.ranks import REFUSED


def require_cluster(distributed: Distributed, runs: Path) -> None:
    """Raise BadInput when the ranks' cluster is missing, or too small even while nobody uses it.

    Hosts that do not see `runs`, the folder of the run directories, do not count. Nothing is
    checked where DeepSpeed starts the ranks.
    """
    if distributed.launcher != "ray":
        return
    done = subprocess.run(
        [*launcher.on_ray(distributed), str(runs)],
        env=launcher.environment(),
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
    )
    if done.returncode == REFUSED:
        raise BadInput(done.stderr.strip())
    if done.returncode:
        raise StageFailed(f"the check of the Ray cluster failed:\n{done.stderr.strip()}")
