"""The demand on a Ray cluster, and the place of each rank."""

import pytest

from rlhf_core.config import Distributed, RayPlacement
from rlhf_core.errors import BadInput
from tasks.execution.ray_cluster.placement import (
    Host,
    RankPlace,
    in_order,
    request,
    variables_of_ranks,
)

CPUS = [Host("10.0.0.1", {"CPU": 8.0}, "a"), Host("10.0.0.2", {"CPU": 2.0}, "b")]
GPUS = [
    Host("10.0.0.1", {"CPU": 64.0}, "a"),
    *[Host(f"g{n}", {"CPU": 64, "GPU": 8}, n) for n in "12"],
]


def on_ray(ranks: int, **settings: float) -> Distributed:
    return Distributed(ranks=ranks, launcher="ray", ray=RayPlacement(**settings))


def test_each_rank_is_a_bundle_of_its_cpus_and_of_a_gpu_where_the_cluster_has_some():
    asked = request(on_ray(3, cpus_per_rank=2), CPUS)
    assert asked.bundles == [{"CPU": 2}] * 3 and asked.strategy == "PACK"
    asked = request(on_ray(16, cpus_per_rank=4), GPUS)
    assert asked.bundles == [{"CPU": 4, "GPU": 1}] * 16


def test_ranks_per_host_make_one_bundle_per_host_on_different_hosts():
    asked = request(on_ray(16, ranks_per_host=8, cpus_per_rank=4), GPUS)
    assert asked.bundles == [{"CPU": 32, "GPU": 8}] * 2 and asked.strategy == "STRICT_SPREAD"
    assert asked.per_rank == {"CPU": 4, "GPU": 1} and asked.ranks_per_bundle == 8


@pytest.mark.parametrize(
    ("distributed", "hosts", "found"),
    [
        (
            on_ray(11),
            CPUS,
            r"room for 10 of 11 ranks, which need 1 CPU each;.*10\.0\.0\.2 \(2 CPUs, 0",
        ),
        # half a rank's CPUs on one host and half on another are none
        (on_ray(4, cpus_per_rank=3), CPUS, "room for 2 of 4 ranks, which need 3 CPU each;"),
        (on_ray(3, ranks_per_host=1), CPUS, "room for 2 of 3 ranks.* 1 on each host"),
        (on_ray(24, ranks_per_host=8), GPUS, "room for 16 of 24 ranks, which need 1 CPU and 1 GPU"),
        (on_ray(2, cpus_per_rank=65), GPUS, r"room for 0 of 2 .*change distributed\.ray"),
        (on_ray(2), [], "its hosts are none"),
    ],
)
def test_too_few_resources_are_refused_with_what_there_is(distributed, hosts, found):
    with pytest.raises(BadInput, match=found):
        request(distributed, hosts)


def test_ranks_are_numbered_host_by_host_beginning_with_this_one():
    places = [RankPlace(node, node, ()) for node in "bacab"]
    assert in_order(places, "a") == [1, 3, 0, 4, 2]
    assert in_order(places, "elsewhere") == [0, 4, 1, 3, 2]


def test_ranks_on_gpus_see_those_of_their_host_as_under_deepspeeds_launcher():
    places = [
        RankPlace("a", "1.1.1.1", ("3",)),
        RankPlace("a", "1.1.1.1", ("0",)),
        RankPlace("b", "2", ("5",)),
    ]
    found = variables_of_ranks(places, 29500)
    names = ("RANK", "LOCAL_RANK", "LOCAL_SIZE", "CROSS_RANK", "CUDA_VISIBLE_DEVICES")
    assert [tuple(one[name] for name in names) for one in found] == [
        ("0", "0", "2", "0", "3,0"),
        ("1", "1", "2", "0", "3,0"),
        ("2", "0", "1", "1", "5"),
    ]
    for one in found:
        assert (one["WORLD_SIZE"], one["CROSS_SIZE"]) == ("3", "2")
        assert (one["MASTER_ADDR"], one["MASTER_PORT"]) == ("1.1.1.1", "29500")
        assert one["RLHF_DEVICES"] == one["CUDA_VISIBLE_DEVICES"]


def test_ranks_on_cpus_get_no_devices_by_name():
    (one, _) = variables_of_ranks([RankPlace("a", "1", ()), RankPlace("b", "2", ())], 1024)
    assert "CUDA_VISIBLE_DEVICES" not in one and "RLHF_DEVICES" not in one
