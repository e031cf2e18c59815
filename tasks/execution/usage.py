"""The use that a stage made of the machine, by the samples in its run directory.

A sample stands for the seconds that its line has. A line of an earlier release has none, and stands
for the time since the line before it, LONGEST_GAP at most: a silence may lie between two attempts.
"""

import json
from dataclasses import dataclass, fields
from pathlib import Path

from rlhf_core.engine.continued import stopped_before
from rlhf_core.rundir import new_lines
from tasks.execution.resource_usage import (
    FILE,
    GPU_ENERGY,
    LONGEST_GAP,
    PROCESSOR_ENERGY,
    STAGE_CPU,
    STAGE_GPU_MEMORY,
    STAGE_GPUS,
    STAGE_MEMORY,
)

JOULES_PER_KWH = 3.6e6


@dataclass(frozen=True)
class Usage:
    """The use of a machine. None: not measured.

    seconds: at work. cpu_hours: one core at work for an hour. gpu_hours: one GPU reserved for an
    hour, idle or not. gpu_kwh, cpu_kwh: energy of the GPUs that the stage may use, and of the
    machine's processor packages, whole devices each.
    """

    seconds: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float | None = None
    gpu_kwh: float | None = None
    cpu_kwh: float | None = None

    def __add__(self, other: "Usage") -> "Usage":
        """Return the sum; what neither has measured stays None."""
        found = {}
        for name in (field.name for field in fields(self)):
            parts = [part for one in (self, other) if (part := getattr(one, name)) is not None]
            found[name] = sum(parts) if parts else None
        return Usage(**found)  # type: ignore[arg-type]

    @property
    def hours(self) -> float:
        """The hours of the clock."""
        return self.seconds / 3600

    @property
    def costs(self) -> dict[str, float]:
        """The measured values, with hours in place of seconds."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        found["hours"] = found.pop("seconds") / 3600
        return {name: value for name, value in found.items() if value is not None}


class UsageReader:
    """The usage of a run directory, read on as its samples come."""

    def __init__(self, folder: Path):
        self._file, self._offset = folder / FILE, 0
        self._last: float | None = None
        self._usage = Usage()

    def read(self) -> Usage:
        """Return the usage so far, over all attempts."""
        lines, self._offset = new_lines(self._file, self._offset)
        for line in lines:
            self._usage += _of_sample(line, self._last)
            self._last = line["time"]
        return self._usage


def used(folder: Path) -> Usage:
    """Return the usage of a run directory over all attempts, and of those that it went on from."""
    return UsageReader(folder).read() + used_elsewhere(folder)


def used_elsewhere(folder: Path) -> Usage:
    """Return the usage of the run directories that a stage went on from, with other ranks."""
    earlier = [folder.parent / name for name in stopped_before(folder)]
    return sum((UsageReader(one).read() for one in earlier), Usage())


def usage_between(folder: Path, start: int, end: int) -> Usage | None:
    """Return the usage between two times, ms since the epoch; None without a sample then."""
    samples = [line for line in read(folder) if start <= line["time"] * 1000 <= end]
    times = [start / 1000, *(line["time"] for line in samples)]
    parts = [_of_sample(line, before) for line, before in zip(samples, times, strict=False)]
    return sum(parts, Usage()) if parts else None


def read(folder: Path) -> list[dict]:
    """Return the complete lines of a run directory's samples."""
    return new_lines(folder / FILE, 0)[0]


def costs(folder: Path) -> dict[str, float]:
    """Return a stage's seconds and its peaks of memory, MiB.

    A peak is the largest sample; a peak between two samples is missed.
    """
    result = folder / "result.json"
    values = (
        {"seconds": json.loads(result.read_text(encoding="utf-8"))["seconds"]}
        if result.exists()
        else {}
    )
    samples = [line["metrics"] for line in read(folder)]
    for name, metric in (
        ("peak_memory_mib", STAGE_MEMORY),
        ("peak_gpu_memory_mib", STAGE_GPU_MEMORY),
    ):
        if peaks := [sample[metric] for sample in samples if metric in sample]:
            values[name] = max(peaks)
    return values


def _of_sample(line: dict, before: float | None) -> Usage:
    metrics = line["metrics"]
    seconds = line.get("seconds")
    if seconds is None:
        seconds = 0.0 if before is None else min(max(line["time"] - before, 0.0), LONGEST_GAP)
    gpus, gpu, cpu = (metrics.get(n) for n in (STAGE_GPUS, GPU_ENERGY, PROCESSOR_ENERGY))
    return Usage(
        seconds,
        seconds / 3600 * metrics.get(STAGE_CPU, 0.0) / 100,
        None if gpus is None else seconds / 3600 * gpus,
        None if gpu is None else gpu / JOULES_PER_KWH,
        None if cpu is None else cpu / JOULES_PER_KWH,
    )
