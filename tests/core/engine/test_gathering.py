"""Weights in buckets of bounded size."""

import pytest
import torch
from torch import nn

from rlhf_core.engine.gathering import buckets, gathered_weights


def named(*sizes: int) -> list[tuple[str, torch.Tensor]]:
    return [(f"w{place}", torch.zeros(size)) for place, size in enumerate(sizes)]


@pytest.mark.parametrize(
    ("sizes", "floats", "lengths"),
    [
        ((), 4, []),
        ((1, 2, 1), 4, [3]),
        ((1, 2, 2), 4, [2, 1]),
        ((9, 1, 9), 4, [1, 1, 1]),  # a weight above the limit is alone
        ((4, 4), 4, [1, 1]),
        ((1,) * 9, 4, [4, 4, 1]),
    ],
)
def test_neighbours_share_a_bucket_up_to_its_size(sizes, floats, lengths):
    given = named(*sizes)
    found = list(buckets(given, 4 * floats))
    assert [len(bucket) for bucket in found] == lengths
    assert [name for bucket in found for name, _ in bucket] == [name for name, _ in given]


def test_a_rank_that_holds_a_part_counts_the_whole_weight():
    parts = named(1, 1)
    for _, part in parts:
        part.ds_shape = (2, 2)
    assert [len(bucket) for bucket in buckets(parts, 16)] == [1, 1]
    assert [len(bucket) for bucket in buckets(parts, 32)] == [2]


@pytest.mark.parametrize("bucket_bytes", [1, 40, 2**20])
def test_every_weight_comes_once_under_each_of_its_names_as_a_copy(bucket_bytes):
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 3, bias=False), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    given = model.state_dict(keep_vars=True)
    found = dict(gathered_weights(given.items(), bucket_bytes=bucket_bytes))
    assert list(found) == list(given)
    for name, value in found.items():
        assert torch.equal(value, given[name]) and value.data_ptr() != given[name].data_ptr()
