"""Sequences whose items are made when they are asked for."""

import pytest

from rlhf_core.data.rows.lazy import Joined, LazySequence


class Squares(LazySequence[int]):
    """The squares below 25, and the indices that were asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return 5

    def item(self, index):
        self.asked.append(index)
        return index * index


def test_an_item_is_made_when_its_index_or_slice_is_asked_for():
    squares = Squares()
    assert squares[-1] == 16 and squares[1:4:2] == [1, 9] and squares.asked == [4, 1, 3]
    assert list(squares) == [0, 1, 4, 9, 16] and 9 in squares and squares[5:] == []
    for outside in (5, -6):
        with pytest.raises(IndexError):
            squares[outside]


def test_joined_sequences_are_the_parts_one_after_the_other():
    joined = Joined([[], [0, 1, 2], [9]])
    assert list(joined) == [0, 1, 2, 9] and joined[1:] == [1, 2, 9] and joined[-1] == 9
    with pytest.raises(IndexError):
        joined[4]
