"""The ranks of a stage, seen from the program that places them: start, output, end."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rlhf_core.errors import BadInput, StageFailed
from tasks.execution.ray_cluster import cluster, placement, sharing
from tasks.execution.ray_cluster.placement import BundleRequest, RankPlace
from tasks.execution.ray_cluster.rank_actor import GRACE_SECONDS, RankActor

REFUSED = 2
POLL_SECONDS = 0.5


class Ranks:
    """The actors of a stage in the order of the ranks, and the place of each."""

    def __init__(self, actors: Sequence[Any], places: Sequence[RankPlace]):
        self.actors, self.places = list(actors), list(places)

    def require(self, shared: Path) -> None:
        """Raise BadInput where a host does not see what ranks need.

        shared: a new file in the run directory.
        """
        import ray

        paths = sharing.paths_of_ranks(shared)
        absent = ray.get([actor.absent.remote(paths) for actor in self.actors])
        for place, missing in zip(self.places, absent, strict=True):
            if missing:
                raise BadInput(sharing.lacking(place.address, missing, shared))

    def start(self, command: list[str], folder: str, port: int | None, given: dict) -> None:
        """Start every rank. port: of rank 0, None: a free one. given: variables of all ranks."""
        import ray

        port = port or ray.get(self.actors[0].free_port.remote())
        each = placement.variables_of_ranks(self.places, port)
        ray.get(
            [
                actor.start.remote(command, folder, given | own)
                for actor, own in zip(self.actors, each, strict=True)
            ]
        )

    def follow(self) -> int:
        """Copy the ranks' output until all have ended well, or one has not; return its exit code.

        Of several that end together, a refusal counts. Raises StageFailed when a host or its
        worker of Ray dies.
        """
        import ray

        waiting = {actor.follow.remote(): rank for rank, actor in enumerate(self.actors)}
        while waiting:
            ready, _ = ray.wait(list(waiting), num_returns=len(waiting), timeout=POLL_SECONDS)
            ended: dict[int, int] = {}
            for answer in ready:
                rank = waiting.pop(answer)
                output, code = self._answer(rank, answer)
                copy(output)
                if code is None:
                    waiting[self.actors[rank].follow.remote()] = rank
                else:
                    ended[rank] = code
            if failed := {rank: code for rank, code in ended.items() if code}:
                rank = next((r for r, code in failed.items() if code == REFUSED), min(failed))
                say(
                    f"rank {rank} on {self.places[rank]} {_how(failed[rank])}; the others are ended"
                )
                return failed[rank]
        return 0

    def end(self) -> None:
        """End the ranks that still run, and copy what they have said."""
        import ray

        endings = [actor.end.remote() for actor in self.actors]
        ray.wait(endings, num_returns=len(endings), timeout=GRACE_SECONDS + 2)
        for ending in endings:
            with contextlib.suppress(ray.exceptions.RayError):
                copy(ray.get(ending, timeout=0.1))

    def _answer(self, rank: int, answer: Any) -> tuple[bytes, int | None]:
        import ray

        try:
            return ray.get(answer)
        except ray.exceptions.RayError as error:
            raise StageFailed(
                f"rank {rank} on {self.places[rank]} is lost with its host or Ray's worker there"
                f" ({type(error).__name__})"
            ) from None


@contextlib.contextmanager
def actors_in(group: Any, request: BundleRequest) -> Iterator[Ranks]:
    """Start an actor per rank in a placement group, and end the ranks with the block.

    Raises BadInput when Ray's workers cannot start this project.
    """
    import ray
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    kind = ray.remote(RankActor)
    options = {"num_cpus": request.per_rank["CPU"], "num_gpus": request.per_rank.get("GPU", 0)}
    count = len(request.bundles) * request.ranks_per_bundle
    actors = [
        kind.options(
            **options,
            scheduling_strategy=PlacementGroupSchedulingStrategy(
                placement_group=group,
                placement_group_bundle_index=number // request.ranks_per_bundle,
            ),
        ).remote()
        for number in range(count)
    ]
    try:
        places = ray.get([actor.place.remote() for actor in actors], timeout=cluster.START_SECONDS)
    except (ray.exceptions.RayError, ModuleNotFoundError) as error:
        raise cluster.unstarted(error) from error
    order = placement.in_order(places, ray.get_runtime_context().get_node_id())
    ranks = Ranks([actors[index] for index in order], [places[index] for index in order])
    try:
        yield ranks
    finally:
        ranks.end()


def _how(code: int) -> str:
    return f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"


def copy(output: bytes) -> None:
    """Write output of a rank to this program's."""
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def say(line: str) -> None:
    """Write a line to the stage's log."""
    print(f"ray: {line}", flush=True)
