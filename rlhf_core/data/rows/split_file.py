"""The rows of a split's file, read as they are asked for: every rank of a stage maps one copy."""

import json
import mmap
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import overload

import numpy as np

from rlhf_core.errors import BadInput

_BLOCK = 1 << 24  # bytes that are searched for line ends at a time


class SplitFile(Sequence[dict]):
    """The canonical records of a JSON Lines file, or those of its lines `at` some places.

    Memory per line: 8 bytes; the text is in the page cache of the host, which processes share.
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._text = _mapped(self._path)
        self._ends = _line_ends(self._text)
        self._places = np.arange(len(self._ends))

    def at(self, places: Sequence[int]) -> "SplitFile":
        """Return the rows at these places, in this order."""
        chosen = object.__new__(SplitFile)
        chosen._path, chosen._text, chosen._ends = self._path, self._text, self._ends
        chosen._places = self._places[np.asarray(places, dtype=np.int64)]
        return chosen

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[dict]:
        return map(self._row, self._places.tolist())

    @overload
    def __getitem__(self, place: int) -> dict: ...
    @overload
    def __getitem__(self, place: slice) -> list[dict]: ...
    def __getitem__(self, place: int | slice) -> dict | list[dict]:
        """Return a row, or the rows of a slice. Raises BadInput where a line is not JSON."""
        if isinstance(place, slice):
            return [self._row(line) for line in self._places[place].tolist()]
        return self._row(int(self._places[place]))

    def _row(self, line: int) -> dict:
        begin = int(self._ends[line - 1]) + 1 if line else 0
        try:
            return json.loads(self._text[begin : int(self._ends[line])])
        except ValueError as error:  # also of text that is not UTF-8
            raise BadInput(
                f"{self._path} line {line + 1} is not JSON ({error}); expected a file written by"
                " the validate stage. Delete that stage's run directory to make it again."
            ) from None


def _mapped(path: Path) -> mmap.mmap | bytes:
    with path.open("rb") as file:
        empty = not path.stat().st_size  # which cannot be mapped
        return b"" if empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _line_ends(text: mmap.mmap | bytes) -> np.ndarray:
    """Return the place of each line's end; the last line may lack its line end."""
    ends = array("q")
    for start in range(0, len(text), _BLOCK):
        block = np.frombuffer(text[start : start + _BLOCK], dtype=np.uint8)
        ends.frombytes((np.flatnonzero(block == ord("\n")) + start).astype(np.int64).tobytes())
    if len(text) and text[-1:] != b"\n":
        ends.append(len(text))
    return np.frombuffer(ends, dtype=np.int64)
