"""Folders in which vLLM finds an adapter that learns, a new one for each sync."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ADAPTER = "actor"  # its name in vLLM, with the number of the sync


class AdapterFolders:
    """The adapters of one sampler, numbered from 1.

    Each has a number and a name of its own: vLLM would read an adapter that is replaced under its
    old name anew in every step.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def written(self, save: Callable[[Path], None]) -> Iterator[tuple[int, Path]]:
        """Give the next number and a folder that `save` has filled; it goes with the block."""
        with tempfile.TemporaryDirectory(prefix="rlhf-adapter-") as folder:
            save(Path(folder))
            self.number += 1
            yield self.number, Path(folder)
