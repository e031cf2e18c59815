"""Forecasts of a running stage: the median time of its steps so far, times the steps left.

What comes after the last step, such as a measurement on held-out rows, is not in it, and neither
are the steps that are slower than most, such as those with an evaluation.
"""

import statistics
import time
from collections import deque
from pathlib import Path

from rlhf_core.rundir import new_lines
from tasks.execution.usage import Usage
from tasks.records.forecast import Forecast
from tasks.spending.spent import money_of

FIRST_STEPS = 3  # durations of steps before the first forecast
MOST_STEPS = 1000  # the latest ones that the median is of


class Forecaster:
    """The pace of a stage, read on from its metrics.

    block: steps whose replies are generated together, which count as one.
    """

    def __init__(self, run_dir: Path, *, block: int = 1):
        self._file, self._block = run_dir / "metrics.jsonl", block
        # the steps of earlier attempts do not count: a pause lies between
        self._offset = new_lines(self._file, 0)[1]
        self._last: dict | None = None
        self._paces: deque[float] = deque(maxlen=MOST_STEPS)

    def pace(self) -> float | None:
        """Return the median seconds of a step so far; None before there are enough."""
        lines, self._offset = new_lines(self._file, self._offset)
        for line in lines:
            if line["step"] % self._block:
                continue
            if self._last and line["step"] > self._last["step"]:
                steps = line["step"] - self._last["step"]
                self._paces.append((line["time"] - self._last["time"]) / steps)
            self._last = line
        enough = len(self._paces) >= FIRST_STEPS
        return statistics.median(self._paces) if enough else None

    def forecast(
        self, usage: Usage, price: tuple[float, float] | None = None, currency: str = ""
    ) -> Forecast | None:
        """Return when the stage ends and its money; None before its first steps.

        usage: of the stage until now. Its money goes on at the rate so far.
        """
        pace, last, now = self.pace(), self._last, time.time()
        if pace is None or last is None:
            return None
        left = max(0.0, pace * (last["steps"] - last["step"]) - (now - last["time"]))
        seconds = usage.seconds + left
        money = None
        if price is not None and usage.seconds:
            money = money_of(usage, price) * seconds / usage.seconds
        return Forecast(
            step=last["step"],
            steps=last["steps"],
            made=int(now * 1000),
            seconds=seconds,
            left=left,
            money=money,
            currency=currency if money is not None else "",
        )
