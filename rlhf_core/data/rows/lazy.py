"""Sequences whose items are made when they are asked for."""

from abc import abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import TypeVar, overload

ItemT = TypeVar("ItemT")


class LazySequence(Sequence[ItemT]):
    """A sequence that makes each item by its index, and lists of a slice's."""

    @abstractmethod
    def item(self, index: int) -> ItemT:
        """Return the item at an index from 0 to len(self) - 1."""

    @overload
    def __getitem__(self, index: int) -> ItemT: ...
    @overload
    def __getitem__(self, index: slice) -> list[ItemT]: ...
    def __getitem__(self, index: int | slice) -> ItemT | list[ItemT]:
        if isinstance(index, slice):
            return [self.item(one) for one in range(len(self))[index]]
        return self.item(range(len(self))[index])  # which knows negative indices, and the end


class Joined(LazySequence[ItemT]):
    """The items of several sequences, one after the other."""

    def __init__(self, parts: Sequence[Sequence[ItemT]]):
        self._parts = parts
        self._ends = list(accumulate(map(len, parts)))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def item(self, index: int) -> ItemT:
        """Return an item."""
        part = bisect_right(self._ends, index)
        return self._parts[part][index - self._ends[part] + len(self._parts[part])]
