"""The costs of runs: hours of cores and GPUs, energy and money, by what the reader asks for."""

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

    gpu_kwh, cpu_kwh: energy of GPUs and of processors; None where no run has measured it. money:
    None without prices.
    """

    group: str
    runs: int = 0
    hours: float = 0.0
    cpu_hours: float = 0.0
    gpu_hours: float = 0.0
    money: float | None = None
    gpu_kwh: float | None = None
    cpu_kwh: float | None = None

    def add(self, other: "CostRow") -> None:
        """Add what other runs, or stages of them, took."""
        for name in ("runs", "hours", "cpu_hours", "gpu_hours", "money", "gpu_kwh", "cpu_kwh"):
            value = getattr(other, name)
            if value is not None:
                setattr(self, name, (getattr(self, name) or 0) + value)


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
        parts = _stages(row) if by == "stage" else [_whole(row, _group(row, by))]
        for part in parts:
            part.money = _money(row, part.cpu_hours, part.gpu_hours, prices)
            found.setdefault(part.group, CostRow(part.group)).add(part)
    return sorted(found.values(), key=lambda one: (-(one.money or 0), -one.gpu_hours, -one.hours))


def total(rows: Sequence[CostRow]) -> CostRow:
    """Return the sum of all groups."""
    made = CostRow("total")
    for row in rows:
        made.add(row)
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


def _whole(row: RunRow, group: str) -> CostRow:
    """Return what a run took: the time from start to end, the rest over its own stages."""
    made = CostRow(group)
    for stage in STAGES:
        made.add(_stage(row, stage))
    made.runs, made.hours = 1, ((row.ended or row.started) - row.started) / 3_600_000
    return made


def _stages(row: RunRow) -> list[CostRow]:
    """Return what the stages took that a run has made itself."""
    return [_stage(row, stage) for stage in STAGES if f"cost/{stage}_cpu_hours" in row.metrics]


def _stage(row: RunRow, stage: str) -> CostRow:
    def taken(name: str) -> float | None:
        return row.metrics.get(f"cost/{stage}_{name}")

    hours = taken("hours")  # with those of an attempt that did not finish; earlier runs lack it
    return CostRow(
        stage,
        runs=1,
        hours=(taken("seconds") or 0.0) / 3600 if hours is None else hours,
        cpu_hours=taken("cpu_hours") or 0.0,
        gpu_hours=taken("gpu_hours") or 0.0,
        gpu_kwh=taken("gpu_kwh"),
        cpu_kwh=taken("cpu_kwh"),
    )


def _money(row: RunRow, cpu: float, gpu: float, prices: Prices | None) -> float | None:
    if prices is None:
        return None
    name = row.params.get("hardware.gpus", "").partition(",")[0]
    return cpu * prices.cpu_hour + gpu * prices.of_gpu(name)
