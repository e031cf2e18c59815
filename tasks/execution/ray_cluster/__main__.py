"""Run a stage's ranks on a Ray cluster: `python -m tasks.execution.ray_cluster SETTINGS ...`.

SETTINGS is the recipe's section `distributed` as JSON. What follows is STAGE SPEC RUN_DIR, as the
ranks get it, or the folder of the run directories: then only the cluster is checked. Exit codes are
those of the ranks.
"""

import contextlib
import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from rlhf_core.config import Distributed
from rlhf_core.errors import BadInput, RLHFError
from rlhf_core.rundir import write_atomically
from tasks.execution.launcher import ON_CPU, QUIET
from tasks.execution.ray_cluster import cluster, placement, sharing
from tasks.execution.ray_cluster.placement import BundleRequest
from tasks.execution.ray_cluster.ranks import REFUSED, Ranks, actors_in, say

# variables of this program that ranks on other hosts get, by how they begin
HANDED_ON = ("NCCL", "GLOO", "PYTHON", "UCX", "MV2")
VISIBLE_SECONDS = 60.0  # a network file system shows a file of another host later


def main(arguments: list[str]) -> int:
    """Run or check; return the exit code."""
    distributed = Distributed.model_validate_json(arguments[0])
    folder = Path(arguments[-1]).absolute()
    run_dir = folder if len(arguments) == 4 else None
    try:
        with cluster.connected(), _left_at_sigterm():
            request = placement.request(distributed, hosts := cluster.hosts())
            if run_dir is None:
                sharing.require_shared(distributed, hosts, folder)
                return 0
            return _run(distributed, request, arguments[1:], run_dir)
    except BadInput as error:
        print(error, file=sys.stderr)
        if run_dir is not None:
            failure = {"stage": arguments[1], "error": BadInput.__name__, "message": str(error)}
            write_atomically(run_dir / "failure.json", json.dumps(failure | {"code": error.code}))
        return REFUSED
    except RLHFError as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        return error.exit_code


def _run(distributed: Distributed, request: BundleRequest, stage: list[str], run_dir: Path) -> int:
    name = f"rlhf-{run_dir.name}"
    with (
        cluster.reserved(request, name, distributed.ray.wait_minutes) as group,
        actors_in(group, request) as ranks,
        sharing.new_file(run_dir) as shared,
    ):
        ranks.require(shared)
        _tell(ranks)
        command = [sys.executable, "-uP", "-m", "rlhf_core", *stage]
        ranks.start(command, os.getcwd(), distributed.master_port, variables(request))
        code = ranks.follow()
    if code in (0, REFUSED):
        _await(run_dir / ("failure.json" if code else "result.json"))
    return code


def variables(request: BundleRequest) -> dict[str, str]:
    """Return the variables that every rank gets from this program's environment."""
    own = {
        name: value
        for name, value in os.environ.items()
        if name.startswith(HANDED_ON) or name in QUIET
    }
    if "GPU" in request.per_rank:
        return own
    threads = os.environ.get("OMP_NUM_THREADS") or f"{request.per_rank['CPU']:g}"
    return own | ON_CPU | {"OMP_NUM_THREADS": threads}


def _tell(ranks: Ranks) -> None:
    for rank, place in enumerate(ranks.places):
        say(f"rank {rank} is on {place}")


def _await(path: Path) -> None:
    """Wait until this host sees what a rank on another has written.

    Listing the folder has a network file system look again.
    """
    deadline = time.monotonic() + VISIBLE_SECONDS
    while path.name not in os.listdir(path.parent) and time.monotonic() < deadline:
        time.sleep(0.5)


@contextlib.contextmanager
def _left_at_sigterm() -> Iterator[None]:
    """Leave the block at SIGTERM, and this program with the exit code of a program so ended.

    Ray's core replaces a SystemExit that a signal raises in one of its calls by one with code 1.
    """
    received: list[int] = []

    def leave(number: int, _: object) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # what follows ends the ranks
        received.append(number)
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except SystemExit:
        if received:
            raise SystemExit(128 + received[0]) from None
        raise


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
