"""The rows of a split's file, read as they are asked for: every rank of a stage maps one copy."""

import json
import mmap
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rlhf_core.data.rows.lazy import LazySequence
from rlhf_core.errors import BadInput

_BLOCK = 1 << 24  # bytes that are searched for line ends at a time


class SplitFile(LazySequence[dict]):
    """The canonical records of a JSON Lines file, or those of its lines `at` some indices.

    Memory per line: 8 bytes; the text is in the page cache of the host, which processes share.
    """

    def __init__(self, path: Path):
        self._path = Path(path)
        self._text = _mapped(self._path)
        self._ends = _line_ends(self._text)
        self._lines = np.arange(len(self._ends))

    def at(self, indices: Sequence[int]) -> "SplitFile":
        """Return the rows at these indices, in this order."""
        chosen = object.__new__(SplitFile)
        chosen._path, chosen._text, chosen._ends = self._path, self._text, self._ends
        chosen._lines = self._lines[np.asarray(indices, dtype=np.int64)]
        return chosen

    def __len__(self) -> int:
        return len(self._lines)

    def item(self, index: int) -> dict:
        """Return a row. Raises BadInput where its line is not JSON."""
        line = int(self._lines[index])
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
