"""The memory of a PPO step of four float32 models, by phase: largest, and left when the phase ends.

    .venv/stage/bin/python infra/bench/memory_by_phase.py [SECTION]

SECTION: keys of the recipe's section [ppo] as JSON, e.g. '{"offload_optimizer": "disk"}'. Of two
steps at the shape of `make bench` the second one is printed, whose replies are long. Resident
memory of this process, GiB; Linux alone counts it anew for each phase.
"""

import contextlib
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ours
import psutil
import workload
from comparisons import FROM_SAMPLING
from shapes import SHAPES
from turns import CountedTurns, Enough, peak_gib

from rlhf_core.ppo.timeline import Timeline

REFERENCES = Path("/proc/self/clear_refs")
PEAK_AGAIN = "5"  # proc(5): the peak of resident memory begins at what is resident now
PHASES = ("generate", "score", "update", "sync")
FULL = "full"


@contextlib.contextmanager
def measured(seen: list[tuple[str, float, float]]) -> Iterator[None]:
    """Note the peak of each phase in this block, and what is resident when it ends."""
    span = Timeline.span

    @contextlib.contextmanager
    def measuring(self: Timeline, name: str, *parts: Any) -> Iterator[None]:
        if name in PHASES:
            REFERENCES.write_text(PEAK_AGAIN, encoding="utf-8")
        with span(self, name, *parts):
            yield
        if name in PHASES:
            seen.append((name, peak_gib(), psutil.Process().memory_info().rss / 2**30))

    Timeline.span = measuring
    try:
        yield
    finally:
        Timeline.span = span


def main(words: list[str]) -> None:
    """Take two steps, and print the second one's phases."""
    section = FROM_SAMPLING | (json.loads(words[0]) if words else {})
    options = {"shape": FULL, "kind": "equal", "dtype": "float32", "section": section}
    seen: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, measured(seen):
        workload.write(Path(folder), SHAPES[FULL])
        with contextlib.suppress(Enough):
            ours.run("ppo", Path(folder), options, CountedTurns(1))
    for name, peak, left in seen[len(seen) // 2 :]:
        print(f"{name:10} peak {peak:.2f} GiB, left {left:.2f} GiB")


if __name__ == "__main__":
    main(sys.argv[1:])
