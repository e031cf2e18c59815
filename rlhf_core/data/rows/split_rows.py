"""The rows of a split, read from their store one at a time."""

from collections.abc import Iterator, Mapping, Sequence
from typing import overload

from rlhf_core.data.splits import prompt_record, to_line
from rlhf_core.data.table import TableEntry


class SplitRows(Sequence[dict]):
    """The records of a split: those of whole rows, then those of the prompts of comparisons.

    A record is read when it is asked for. prompts_of: rows whose prompt alone is a record.
    """

    def __init__(
        self, entries: Sequence[TableEntry], prompts_of: Sequence[TableEntry] = ()
    ) -> None:
        self.entries = [*entries, *prompts_of]
        self._whole = len(entries)

    def __len__(self) -> int:
        return len(self.entries)

    @overload
    def __getitem__(self, place: int) -> dict: ...
    @overload
    def __getitem__(self, place: slice) -> "SplitRows": ...
    def __getitem__(self, place: int | slice) -> "dict | SplitRows":
        if isinstance(place, slice):
            whole, rest = range(self._whole)[place], range(len(self))[place]
            assert place.step in (None, 1), "a split is cut without steps"
            return SplitRows(
                [self.entries[i] for i in whole],
                [self.entries[i] for i in rest if i >= self._whole],
            )
        return self._record(range(len(self))[place])

    def __iter__(self) -> Iterator[dict]:
        return (self._record(place) for place in range(len(self)))

    def _record(self, place: int) -> dict:
        record = self.entries[place].canonical
        return record if place < self._whole else prompt_record(record["prompt"])

    def lines(self) -> Iterator[str]:
        """Yield the lines of the split's file."""
        for place, entry in enumerate(self.entries):
            line = entry.store.line(entry.place) if place < self._whole else None
            yield to_line(self._record(place)) if line is None else line

    def tokens(self) -> Iterator[Mapping[str, int]]:
        """Yield the token counts of each record; none for a prompt alone."""
        for place, entry in enumerate(self.entries):
            yield entry.tokens if place < self._whole else {}

    def ids(self) -> Iterator[str]:
        """Yield the id of each record of a row; prompts alone have ids of their own."""
        return (entry.id for entry in self.entries[: self._whole])

    def voted(self) -> "SplitRows":
        """Return the pairs that have votes."""
        rows = self.entries[: self._whole]
        return SplitRows([entry for entry in rows if entry.store.has_votes(entry.place)])


def first_of_each_prompt(entries: Sequence[TableEntry]) -> list[TableEntry]:
    """Return the first row of each different prompt, in order of appearance."""
    found: dict[str, TableEntry] = {}
    for entry in entries:
        found.setdefault(entry.prompt_key, entry)
    return list(found.values())
