"""The costs of runs: hours of cores and GPUs, and money, summed up by what the reader asks for."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rlhf_core.errors import ConfigError
from rlhf_core.stage_catalogue import STAGES
from tasks.analysis.board.conditions import require_key, value_of
from tasks.analysis.board.prices import Prices
from tasks.analysis.board.run_rows import RunRow

GROUPS = ("recipe", "stage", "run", "status", "day", "month")
_SPAN = re.compile(r"(\d+(?:\.\d+)?)([hdw])")
_UNITS = {"h": "hours", "d": "days", "w": "weeks"}


@dataclass
class CostRow:
    """One group of runs. hours: of the clock, from start to end; of stages it is the stage's own.

    money: None without prices.
    """

    group: str
    runs: int = 0
    hours: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    money: float | None = None

    def add(self, hours: float, cpu: float, gpu: float, money: float | None) -> None:
        """Add what one run, or one stage of it, took."""
        self.runs += 1
        self.hours += hours
        self.cpu_hours += cpu
        self.gpu_hours += gpu
        if money is not None:
            self.money = (self.money or 0.0) + money


def since_time(text: str, now: datetime | None = None) -> datetime:
    """Return the time that '30d', '12h', '2w' or '2026-11-01' means, UTC. Raises ConfigError."""
    if match := _SPAN.fullmatch(text.strip()):
        unit = _UNITS[match[2]]
        return (now or datetime.now(UTC)) - timedelta(**{unit: float(match[1])})
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise ConfigError(
            f"--since {text!r} is no time; expected e.g. 30d, 12h, 2w or 2026-11-01."
        ) from None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def costs_by(
    rows: Sequence[RunRow], by: str, prices: Prices | None, since: datetime | None = None
) -> list[CostRow]:
    """Return what the runs since a time took, by group: the dearest, or the longest, first.

    by: one of GROUPS, or a recipe key. Raises ConfigError for a key that no run has. A stage that a
    run took from an earlier one counts there alone.
    """
    if by not in GROUPS:
        require_key(rows, by)
    start = since.timestamp() * 1000 if since else float("-inf")
    found: dict[str, CostRow] = {}
    for row in rows:
        if row.started < start:
            continue
        parts = _stages(row) if by == "stage" else [(_group(row, by), _hours(row), *_used(row))]
        for group, hours, cpu, gpu in parts:
            entry = found.setdefault(group, CostRow(group))
            entry.add(hours, cpu, gpu, _money(row, cpu, gpu, prices))
    return sorted(found.values(), key=lambda one: (-(one.money or 0), -one.gpu_hours, -one.hours))


def total(rows: Sequence[CostRow]) -> CostRow:
    """Return the sum of all groups."""
    made = CostRow("total")
    for row in rows:
        made.add(row.hours, row.cpu_hours, row.gpu_hours, row.money)
    made.runs = sum(row.runs for row in rows)
    return made


def _group(row: RunRow, by: str) -> str:
    began = datetime.fromtimestamp(row.started / 1000, UTC)
    known = {
        "recipe": row.recipe,
        "run": row.name,
        "status": row.status.lower(),
        "day": began.strftime("%Y-%m-%d"),
        "month": began.strftime("%Y-%m"),
    }
    return known[by] if by in known else str(value_of(row, by))


def _hours(row: RunRow) -> float:
    return ((row.ended or row.started) - row.started) / 3_600_000


def _used(row: RunRow) -> tuple[float, float]:
    """Return the core hours and the GPU hours of a run."""
    parts = [_used_by(row, stage) for stage in STAGES]
    return sum(cpu for cpu, _ in parts), sum(gpu for _, gpu in parts)


def _used_by(row: RunRow, stage: str) -> tuple[float, float]:
    cpu, gpu = (row.metrics.get(f"cost/{stage}_{kind}_hours", 0.0) for kind in ("cpu", "gpu"))
    return cpu, gpu


def _stages(row: RunRow) -> list[tuple[str, float, float, float]]:
    """Return the stages that a run has made itself, with their hours."""
    return [
        (stage, row.metrics.get(f"cost/{stage}_seconds", 0.0) / 3600, *_used_by(row, stage))
        for stage in STAGES
        if f"cost/{stage}_cpu_hours" in row.metrics
    ]


def _money(row: RunRow, cpu: float, gpu: float, prices: Prices | None) -> float | None:
    if prices is None:
        return None
    name = row.params.get("hardware.gpus", "").partition(",")[0]
    return cpu * prices.cpu_hour + gpu * prices.of_gpu(name)
