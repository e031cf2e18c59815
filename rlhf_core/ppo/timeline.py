"""The record of what learner and sampler did, from when to when: timeline.jsonl in a run directory.

One line per span: {"name", "track", "step", "start", "end"}, in seconds since the epoch. Both
tracks are seen from the learner's process: the sampler's spans are its requests, from when they are
sent until they are answered. `rlhf trace RUN --timeline` draws them.
"""

import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

from rlhf_core.ranks import is_rank_zero
from rlhf_core.rundir import read_metrics

TIMELINE = "timeline.jsonl"
Track = Literal["learner", "sampler"]


class Timeline:
    """The spans of one stage, which rank 0 writes as they end, from any thread."""

    def __init__(self, folder: Path | None = None):
        """Append to the file in `folder`; without a folder, record nothing."""
        self._file = folder / TIMELINE if folder and is_rank_zero() else None
        if self._file:
            read_metrics(self._file)  # cuts a line that a kill cut off
        # one clock that never goes back, so that a span ends within the one around it
        self._epoch = time.time() - time.monotonic()
        self._lock = threading.Lock()

    @contextmanager
    def span(self, name: str, step: int | None = None, *tracks: Track) -> Iterator[None]:
        """Record the time of the block, also when it fails; tracks: the learner's by default."""
        start = time.monotonic()
        try:
            yield
        finally:
            end = time.monotonic()
            for track in tracks or ("learner",):
                self._write(
                    {
                        "name": name,
                        "track": track,
                        "step": step,
                        "start": self._epoch + start,
                        "end": self._epoch + end,
                    }
                )

    def _write(self, span: dict) -> None:
        if self._file:
            with self._lock, self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps(span) + "\n")
