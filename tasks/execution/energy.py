"""Energy of GPUs and of processor packages, from the counters of their drivers, in joules.

GPUs: NVML's counter since the driver was loaded (Volta and later). Processors: the RAPL counters in
/sys/class/powercap, where this user may read them. Both count a whole device: what other programs
do on it is in the number.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

GPU, CPU = "gpu", "cpu"
POWERCAP = Path("/sys/class/powercap")


@dataclass(frozen=True)
class EnergyCounter:
    """One device's counter. read: its joules, None without an answer.

    wraps_at: the joules at which it begins anew; None: it does not.
    """

    kind: str  # GPU or CPU
    read: Callable[[], float | None]
    wraps_at: float | None = None


class EnergyMeter:
    """The energy between two calls."""

    def __init__(self, counters: Sequence[EnergyCounter]):
        self._counters = list(counters)
        self._before = [counter.read() for counter in self._counters]

    def __call__(self) -> dict[str, float]:
        """Return the joules since the last call by kind of device.

        A kind of which one counter does not answer is left out: its sum would be too small. The
        next call counts from the last answer on.
        """
        now = [counter.read() for counter in self._counters]
        found: dict[str, float] = {}
        unknown = set()
        for counter, before, value in zip(self._counters, self._before, now, strict=True):
            joules = _between(before, value, counter.wraps_at)
            found[counter.kind] = found.get(counter.kind, 0.0) + (joules or 0.0)
            if joules is None:
                unknown.add(counter.kind)
        self._before = [
            before if counter.kind in unknown and _is_older(before, value) else value
            for counter, before, value in zip(self._counters, self._before, now, strict=True)
        ]
        return {kind: joules for kind, joules in found.items() if kind not in unknown}


def _is_older(before: float | None, now: float | None) -> bool:
    """Return True if a later reading may still be counted from `before`."""
    return before is not None and (now is None or now >= before)


def _between(before: float | None, now: float | None, wraps_at: float | None) -> float | None:
    if before is None or now is None:
        return None
    if now >= before:
        return now - before
    return now - before + wraps_at if wraps_at else None  # its driver was loaded anew


def processor_counters(folder: Path = POWERCAP) -> list[EnergyCounter]:
    """Return the counters of the processor packages, none where one may not be read."""
    found = []
    for zone in sorted(folder.glob("*-rapl:*")):
        try:
            if not (zone / "name").read_text(encoding="utf-8").startswith("package-"):
                continue
            wraps_at = float((zone / "max_energy_range_uj").read_text(encoding="utf-8")) / 1e6
        except (OSError, ValueError):
            return []
        found.append(EnergyCounter(CPU, _reader(zone / "energy_uj"), wraps_at))
    return found if all(counter.read() is not None for counter in found) else []


def _reader(file: Path) -> Callable[[], float | None]:
    def read() -> float | None:
        try:
            return float(file.read_text(encoding="utf-8")) / 1e6
        except (OSError, ValueError):
            return None

    return read


def chosen_gpus(names: Sequence[str]) -> list[int] | None:
    """Return the places of the GPUs that a stage may use, by CUDA_VISIBLE_DEVICES.

    names: each GPU's own name, as 'GPU-8f4c...'. None where an entry names none of them, as for a
    part of a GPU (MIG). A number is taken as NVML's, which is CUDA's where all GPUs are alike.
    """
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is None:
        return [*range(len(names))]
    found = []
    for entry in filter(None, map(str.strip, named.split(","))):
        if entry == "-1":
            break
        places = [
            place
            for place, name in enumerate(names)
            if entry == str(place) or (entry.startswith("GPU-") and name.startswith(entry))
        ]
        if len(places) != 1:
            return None
        found += places
    return found
