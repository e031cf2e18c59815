"""A step's rows in microbatches and over ranks: nothing is lost, nothing comes twice.

Every rank makes the same number of passes.
"""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st
from ranks_of_step import microbatches_of_ranks

from rlhf_core.batching.microbatches import microbatches, shares

SIZES = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=24)


@given(
    st.lists(st.tuples(st.integers(1, 30), st.integers(1, 30)), min_size=1, max_size=40),
    st.integers(1, 200),
)
def test_microbatches_hold_every_index_once_within_the_budget(sizes, budget):
    parts = microbatches(sizes, budget)
    assert sorted(i for part in parts for i in part) == list(range(len(sizes)))
    for part in parts:
        width = max(sizes[i][0] for i in part) + max(sizes[i][1] for i in part)
        assert len(part) == 1 or width * len(part) <= budget


def test_pairs_stay_together():
    parts = microbatches([(1, 1), (1, 9), (1, 2), (1, 2)], 8, group=2)
    assert parts == [[2, 3], [0, 1]]


@given(SIZES, st.integers(1, 5), st.integers(1, 200))
def test_every_row_counts_once_and_every_rank_makes_as_many_passes(sizes, count, budget):
    ranks = microbatches_of_ranks(sizes, budget, count)
    assert sorted(row for rank in ranks for rows, counts in rank if counts for row in rows) == list(
        range(len(sizes))
    )
    assert len({len(rank) for rank in ranks}) == 1
    assert all(rows for rank in ranks for rows, _ in rank)


@given(SIZES, st.integers(1, 200))
def test_one_rank_has_the_very_microbatches_of_before(sizes, budget):
    assert microbatches_of_ranks(sizes, budget, 1) == [
        [(rows, True) for rows in microbatches(sizes, budget)]
    ]


@given(SIZES, st.integers(2, 4), st.integers(1, 200))
def test_a_pair_stays_on_one_rank_in_its_order(sizes, count, budget):
    sizes = sizes * 2
    for rank in microbatches_of_ranks(sizes, budget, count, group=2):
        for rows, _ in rank:
            assert all(
                chosen % 2 == 0 and rejected == chosen + 1
                for chosen, rejected in zip(rows[::2], rows[1::2], strict=True)
            )


def test_ranks_get_about_as_many_tokens():
    sizes = [(4, length) for length in range(1, 65)]
    tokens = [sum(sum(sizes[row]) for row in share) for share in shares(sizes, 4)]
    assert max(tokens) - min(tokens) <= 68
    assert [len(share) for share in shares(sizes, 4)] == [16] * 4


PROMPTED = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 30)), min_size=1, max_size=24
)  # prompt's number, response tokens


@given(PROMPTED, st.integers(1, 5), st.integers(1, 200))
def test_rows_of_one_prompt_are_neighbours_on_every_rank(rows, count, budget):
    prompts = [prompt for prompt, _ in rows]
    sizes = [(prompt + 1, response) for prompt, response in rows]
    ranks = microbatches_of_ranks(sizes, budget, count, packing=True, prompts=prompts)
    assert len({len(rank) for rank in ranks}) == 1
    counted = [row for rank in ranks for part, counts in rank if counts for row in part]
    assert sorted(counted) == list(range(len(sizes)))
    changes = sum(prompts[one] != prompts[other] for one, other in pairwise(counted))
    assert changes == len({*prompts}) - 1
    for rank in ranks:
        for part, _ in rank:
            assert part and (len(part) == 1 or sum(sum(sizes[i]) for i in part) <= budget)


def test_ranks_get_about_as_many_tokens_of_rows_with_prompts():
    sizes, prompts = [(4, length) for length in range(1, 65)], [row // 8 for row in range(64)]
    ranks = microbatches_of_ranks(sizes, 10_000, 4, packing=True, prompts=prompts)
    tokens = [sum(sum(sizes[row]) for rows, _ in rank for row in rows) for rank in ranks]
    assert max(tokens) - min(tokens) <= 2 * 68  # a longest row at either end
    parts = microbatches(sizes, 10_000, packing=True, prompts=prompts[::-1])
    assert parts == [list(range(64))]


def test_a_rank_without_rows_goes_along_with_the_first_group():
    assert microbatches_of_ranks([(2, 3), (2, 3)], 100, 2, group=2) == [
        [([0, 1], True)],
        [([0, 1], False)],
    ]


def test_a_step_without_rows_has_no_microbatches():
    for how in ({}, {"packing": True, "prompts": []}):
        assert microbatches([], 100, **how) == []
        assert microbatches_of_ranks([], 100, 2, **how) == [[], []]
