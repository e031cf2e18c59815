"""Goals of speed and memory: a ratio of what was measured, its target, and the verdict."""

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from measured_process import Measured

# one per pair of neighbouring turns, by the name of the clock: "step" or "cpu"
Ratios = Callable[[Mapping[str, Measured], str], list[float]]
NOT_MEASURED = "not measured"


@dataclass(frozen=True)
class Goal:
    """A ratio with a target. Without one it only informs."""

    text: str
    ratios: Ratios
    at_most: float | None = None
    at_least: float | None = None
    unit: str = ""

    @property
    def target(self) -> str:
        """The target as a reader sees it."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}{self.unit}"
        return "none" if self.at_least is None else f">= {self.at_least:g}{self.unit}"

    def verdict(self, found: float) -> str:
        """Return 'met' or 'not met'; 'for information' without a target."""
        if self.at_most is not None:
            return "met" if found <= self.at_most else "not met"
        if self.at_least is not None:
            return "met" if found >= self.at_least else "not met"
        return "for information"


@dataclass(frozen=True)
class Outcome:
    """The median ratio of a goal, the smallest and the largest, and the verdict.

    cpu: the median by the processors' seconds, which decides nothing; None where it is no ratio of
    steps.
    """

    goal: str
    target: str
    median: float | None
    low: float | None
    high: float | None
    verdict: str
    cpu: float | None = None

    @property
    def cells(self) -> tuple[str, ...]:
        """The outcome as the cells of a table."""
        if self.median is None:
            return self.goal, self.target, "", "", self.verdict
        return (
            self.goal,
            self.target,
            f"{self.median:.3g} [{self.low:.3g}, {self.high:.3g}]",
            "" if self.cpu is None else f"{self.cpu:.3g}",
            self.verdict,
        )


def decide(
    goal: Goal, measured: Mapping[str, Measured], *, why: str = "", trial: bool = False
) -> Outcome:
    """Return the outcome of a goal.

    why: the reason for which one of its programs did not run. trial: of another shape than that of
    the goals, which decides nothing.
    """
    try:
        found, by_cpu = (goal.ratios(measured, clock) for clock in ("step", "cpu"))
    except KeyError:  # a program that did not run
        return Outcome(goal.text, goal.target, None, None, None, f"{NOT_MEASURED} ({why})")
    median = statistics.median(found)
    verdict = "trial" if trial else goal.verdict(median)
    cpu = statistics.median(by_cpu) if by_cpu != found else None
    return Outcome(goal.text, goal.target, median, min(found), max(found), verdict, cpu)


def step_ratio(of: str, to: str) -> Ratios:
    """Return the seconds of `of` / those of `to`, turn by turn."""
    return lambda measured, clock: _paired(measured[of], measured[to], clock)


def speed_ratio(of: str, to: str) -> Ratios:
    """Return the speed of `of` / that of `to`, turn by turn: both do the same work in a step."""
    return step_ratio(to, of)


def peak_ratio(of: str, to: str) -> Ratios:
    """Return the peak memory of `of` / that of `to`, process by process."""
    return lambda measured, _clock: [
        one / other for one, other in zip(measured[of].peaks, measured[to].peaks, strict=True)
    ]


def share(part: str, of: str) -> Ratios:
    """Return the share of a step of `of` that a part of it takes, turn by turn."""
    return lambda measured, _clock: [step[part] / step["step"] for step in measured[of].steps]


def within_turn(label: str, slow: str, fast: str) -> Ratios:
    """Return a turn's seconds of `slow` / those of `fast`, both parts of the same turn.

    By the processors' seconds: those of the parts `..._cpu`.
    """

    def ratios(measured: Mapping[str, Measured], clock: str) -> list[float]:
        end = "" if clock == "step" else f"_{clock}"
        return [step[slow + end] / step[fast + end] for step in measured[label].steps]

    return ratios


def value(label: str, name: str) -> Ratios:
    """Return a number itself, turn by turn."""
    return lambda measured, _clock: [step[name] for step in measured[label].steps]


def _paired(one: Measured, other: Measured, name: str) -> list[float]:
    return [a[name] / b[name] for a, b in zip(one.steps, other.steps, strict=True)]
