"""The place of ranks in a Ray cluster: what is asked of it, and the number of each rank."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from rlhf_core.config import Distributed
from rlhf_core.errors import BadInput
from rlhf_core.ranks import DEVICES

Resources = dict[str, float]


@dataclass(frozen=True)
class Host:
    """A host of the cluster, all that Ray may give of it, and Ray's id of it."""

    address: str
    resources: Resources
    node: str

    def __str__(self) -> str:
        """Return the address, CPUs and GPUs, for a message."""
        given = (f"{self.resources.get(kind, 0):g} {kind}s" for kind in ("CPU", "GPU"))
        return f"{self.address} ({', '.join(given)})"


@dataclass(frozen=True)
class BundleRequest:
    """The bundles that a stage asks of the cluster: resources, each of them on one host."""

    bundles: list[Resources]
    strategy: str  # Ray's
    ranks_per_bundle: int
    per_rank: Resources

    def __str__(self) -> str:
        """Return what is asked, for a message."""
        ranks = f"{len(self.bundles) * self.ranks_per_bundle} ranks"
        needs = " and ".join(f"{amount:g} {kind}" for kind, amount in self.per_rank.items())
        together = f", {self.ranks_per_bundle} on each host"
        spread = together if self.strategy == "STRICT_SPREAD" else ""
        return f"{ranks}, which need {needs} each{spread}"

    def room(self, hosts: Sequence[Host]) -> int:
        """Return how many ranks fit on the hosts while nobody else uses them."""
        bundle, each = self.bundles[0], []
        for host in hosts:
            fitting = min(int(host.resources.get(kind, 0) // bundle[kind]) for kind in bundle)
            each.append(min(1, fitting) if self.strategy == "STRICT_SPREAD" else fitting)
        return sum(each) * self.ranks_per_bundle


@dataclass(frozen=True)
class RankPlace:
    """The place that a rank got: Ray's id of the host, its address, and the rank's GPUs."""

    node: str
    address: str
    devices: tuple[str, ...]

    def __str__(self) -> str:
        """Return the address and the GPUs, for a message."""
        return f"{self.address} (GPU {', '.join(self.devices)})" if self.devices else self.address


def request(distributed: Distributed, hosts: Sequence[Host]) -> BundleRequest:
    """Return what the ranks need: a GPU each where the cluster has GPUs, and their CPUs.

    A number of ranks per host makes one bundle per host, all on different ones. Else each rank is
    a bundle, and Ray fills one host after the other.

    Raises BadInput when the hosts have too little, even while nobody else uses them.
    """
    has_gpus = any(host.resources.get("GPU", 0) >= 1 for host in hosts)
    per_rank: Resources = {"CPU": float(distributed.ray.cpus_per_rank)}
    per_rank |= {"GPU": 1.0} if has_gpus else {}
    each = distributed.ray.ranks_per_host or 1
    bundle = {kind: amount * each for kind, amount in per_rank.items()}
    strategy = "STRICT_SPREAD" if distributed.ray.ranks_per_host else "PACK"
    wanted = BundleRequest([dict(bundle)] * (distributed.ranks // each), strategy, each, per_rank)
    if (room := wanted.room(hosts)) < distributed.ranks:
        raise BadInput(
            f"the Ray cluster has room for {room} of {wanted}; its hosts are"
            f" {', '.join(map(str, hosts)) or 'none'}. Lower distributed.ranks, change"
            " distributed.ray, or add hosts to the cluster."
        )
    return wanted


def in_order(places: Sequence[RankPlace], here: str) -> list[int]:
    """Return the places' indexes in the order of the ranks: host by host, the host `here` first.

    Neighbouring ranks share a host, as tensor parallelism wants it.
    """
    hosts = list(dict.fromkeys([here, *(place.node for place in places)]))
    return sorted(range(len(places)), key=lambda index: hosts.index(places[index].node))


def variables_of_ranks(places: Sequence[RankPlace], port: int) -> list[dict[str, str]]:
    """Return the variables of each rank that torch and DeepSpeed read, for places in order.

    A rank sees the GPUs of all ranks of its host and takes the one that LOCAL_RANK counts to, as
    under DeepSpeed's launcher.
    """
    hosts = list(dict.fromkeys(place.node for place in places))
    sizes = Counter(place.node for place in places)
    devices = {
        node: ",".join(gpu for place in places if place.node == node for gpu in place.devices)
        for node in hosts
    }
    before: Counter[str] = Counter()
    found = []
    for rank, place in enumerate(places):
        own = {
            "RANK": rank,
            "LOCAL_RANK": before[place.node],
            "WORLD_SIZE": len(places),
            "LOCAL_SIZE": sizes[place.node],
            "CROSS_RANK": hosts.index(place.node),
            "CROSS_SIZE": len(hosts),
            "MASTER_ADDR": places[0].address,
            "MASTER_PORT": port,
        }
        seen = devices[place.node]
        gpus = {"CUDA_VISIBLE_DEVICES": seen, DEVICES: seen} if seen else {}
        found.append({name: str(value) for name, value in own.items()} | gpus)
        before[place.node] += 1
    return found
