"""The files that the hosts of a Ray cluster must share, looked for on each of them."""

import contextlib
import os
import secrets
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rlhf_core.config import Distributed
from rlhf_core.errors import BadInput
from tasks.execution.ray_cluster import cluster, placement
from tasks.execution.ray_cluster.placement import Host
from tasks.execution.ray_cluster.rank_actor import RankActor


@contextlib.contextmanager
def new_file(folder: Path) -> Iterator[Path]:
    """Write a file of a new name, which a host sees only if it shares the file system."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f".shared-{secrets.token_hex(8)}"
    path.write_text("", encoding="utf-8")
    try:
        yield path
    finally:
        path.unlink(missing_ok=True)


def paths_of_ranks(shared: Path) -> list[str]:
    """Return what each host must see: this Python, this working folder, and the new file."""
    return [sys.executable, os.getcwd(), str(shared)]


def lacking(address: str, absent: Sequence[str], shared: Path) -> str:
    """Return what a host lacks, as a message. absent: not empty, of `paths_of_ranks`."""
    if others := [path for path in absent if path != str(shared)]:
        return (
            f"host {address} of the Ray cluster has no {', '.join(others)}; expected"
            " the same Python and the same working folder at the same paths on every host."
        )
    return (
        f"host {address} of the Ray cluster does not see {shared}, which was just"
        " written; expected the run directories on a file system that all hosts share,"
        " at the same path. Set RLHF_HOME to a folder of it."
    )


def require_shared(distributed: Distributed, hosts: Sequence[Host], folder: Path) -> None:
    """Raise BadInput unless the hosts that see what ranks need have room for all of them.

    folder: of the run directories. A host without room for a rank may lack it.
    """
    with new_file(folder) as shared:
        absent = _absent(hosts, paths_of_ranks(shared))
    seeing = [host for host, missing in zip(hosts, absent, strict=True) if not missing]
    if len(seeing) == len(hosts):
        return
    try:
        placement.request(distributed, seeing)
    except BadInput:
        first = next(index for index, missing in enumerate(absent) if missing)
        raise BadInput(lacking(hosts[first].address, absent[first], shared)) from None


def _absent(hosts: Sequence[Host], paths: list[str]) -> list[list[str]]:
    """Return which of the paths each host does not see.

    Raises BadInput when Ray's workers there cannot start this project.
    """
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    kind = ray.remote(RankActor)
    actors = [
        kind.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(host.node, soft=False)
        ).remote()
        for host in hosts
    ]
    try:
        return ray.get(
            [actor.absent.remote(paths) for actor in actors], timeout=cluster.START_SECONDS
        )
    except (ray.exceptions.RayError, ModuleNotFoundError) as error:
        raise cluster.unstarted(error) from error
