"""How a step's rows are shared out among ranks: nothing lost, nothing twice, and every rank makes as many passes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlhf_core.batch import microbatches, own_microbatches, shares

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=24)


def plans(sizes, budget, count, *, group=1) -> list[list[tuple[list[int], bool]]]:
    """What each of `count` ranks gets."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WORLD_SIZE", str(count))
        for number in range(count):
            patch.setenv("RANK", str(number))
            found.append(own_microbatches(sizes, budget, group=group))
    return found


@given(SIZES, st.integers(1, 5), st.integers(1, 200))
def test_every_row_counts_once_and_every_rank_makes_as_many_passes(sizes, count, budget):
    ranks = plans(sizes, budget, count)
    assert sorted(row for rank in ranks for rows, counts in rank if counts for row in rows) == list(range(len(sizes)))
    assert len({len(rank) for rank in ranks}) == 1
    assert all(rows for rank in ranks for rows, _ in rank)


@given(SIZES, st.integers(1, 200))
def test_one_rank_has_the_very_microbatches_of_before(sizes, budget):
    assert plans(sizes, budget, 1) == [[(rows, True) for rows in microbatches(sizes, budget)]]


@given(SIZES, st.integers(2, 4), st.integers(1, 200))
def test_a_pair_stays_on_one_rank_in_its_order(sizes, count, budget):
    sizes = sizes * 2
    for rank in plans(sizes, budget, count, group=2):
        for rows, _ in rank:
            assert all(
                chosen % 2 == 0 and rejected == chosen + 1 for chosen, rejected in zip(rows[::2], rows[1::2], strict=True)
            )


def test_ranks_get_about_as_many_tokens():
    sizes = [(4, length) for length in range(1, 65)]
    tokens = [sum(sum(sizes[row]) for row in share) for share in shares(sizes, 4)]
    assert max(tokens) - min(tokens) <= 68
    assert [len(share) for share in shares(sizes, 4)] == [16] * 4


def test_a_rank_without_rows_goes_along_with_the_first_group():
    assert plans([(2, 3), (2, 3)], 100, 2, group=2) == [[([0, 1], True)], [([0, 1], False)]]
