"""The ranks of a stage, seen from the program that places them: start, output, end."""

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from rlhf_core.errors import BadInput, StageFailed
from tasks.execution.ray_cluster import placement
from tasks.execution.ray_cluster.placement import BundleRequest, RankPlace
from tasks.execution.ray_cluster.rank_actor import GRACE_SECONDS, RankActor

REFUSED = 2
POLL_SECONDS = 0.5
START_SECONDS = 300.0  # for Ray to start a worker on each host


class Ranks:
    """The actors of a stage in the order of the ranks, and the place of each."""

    def __init__(self, actors: Sequence[Any], places: Sequence[RankPlace]):
        self.actors, self.places = list(actors), list(places)

    def require(self, paths: list[str], shared: str) -> None:
        """Raise BadInput where a host does not see the paths, or a new file of the run directory.

        shared: the file.
        """
        import ray

        absent = ray.get([actor.absent.remote([*paths, shared]) for actor in self.actors])
        for place, missing in zip(self.places, absent, strict=True):
            if lacking := [path for path in missing if path != shared]:
                raise BadInput(
                    f"host {place.address} of the Ray cluster has no {', '.join(lacking)}; expected"
                    " the same Python and the same working folder at the same paths on every host."
                )
            if missing:
                raise BadInput(
                    f"host {place.address} of the Ray cluster does not see {shared}, which was just"
                    " written; expected the run directories on a file system that all hosts share,"
                    " at the same path. Set RLHF_HOME to a folder of it."
                )

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
        places = ray.get([actor.place.remote() for actor in actors], timeout=START_SECONDS)
    except (ray.exceptions.RayError, ModuleNotFoundError) as error:
        raise _unstarted(error) from error
    order = placement.in_order(places, ray.get_runtime_context().get_node_id())
    ranks = Ranks([actors[index] for index in order], [places[index] for index in order])
    try:
        yield ranks
    finally:
        ranks.end()


def _unstarted(error: Exception) -> Exception:
    if "ModuleNotFoundError" in f"{type(error).__name__} {error}":
        return BadInput(
            f"Ray's workers cannot load this project: {str(error).strip().splitlines()[-1]};"
            f" expected Ray to run in the same environment as {sys.executable}. Start it on every"
            " host with the program `ray` beside that."
        )
    return StageFailed(f"Ray's workers did not start ({type(error).__name__}): {error}")


def _how(code: int) -> str:
    return f"was ended by signal {code - 128}" if code > 128 else f"ended with exit code {code}"


def copy(output: bytes) -> None:
    """Write output of a rank to this program's."""
    sys.stdout.buffer.write(output)
    sys.stdout.buffer.flush()


def say(line: str) -> None:
    """Write a line to the stage's log."""
    print(f"ray: {line}", flush=True)
