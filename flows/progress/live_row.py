"""One row of the live display, and the words of its line."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

from flows.report.text import duration, key_metric, short_name
from rlhf_core.gates.decide import Decision
from rlhf_core.stage_catalogue import STAGES
from tasks.records.events import ApprovalAsked, StageAborted, StageProgress
from tasks.records.forecast import Forecast
from tasks.records.step_row import StepRow

CATCH_UP_S = 0.3  # a resumed stage's old steps arrive at once; the pace is counted from after them
SPEED = ("tokens_per_second", "ppo/rollout_tokens_per_second")


@dataclass
class LiveRow:
    """A step of a run, and what is known of it only while it runs: its pace, what it waits for.

    Times are of the monotonic clock.
    """

    row: StepRow  # from the events while it runs, from the run's record when it has ended
    began: float
    how_to_answer: str = ""  # while a person is asked
    first_seen: float | None = None
    latest: float = 0.0
    pace_from: tuple[float, int] = (0.0, 0)
    forecast: Forecast | None = None  # the latest
    foreseen: float = 0.0  # when it came

    def progress(self, event: StageProgress, now: float) -> None:
        """Take a step's numbers."""
        if self.first_seen is None:
            self.first_seen = now
        if now - self.first_seen <= CATCH_UP_S:
            self.pace_from = (now, event.step)
        metrics = self.row.metrics | event.metrics
        self.row = replace(self.row, progress=(event.step, event.steps), metrics=metrics)
        self.latest = now

    def foresee(self, forecast: Forecast, now: float) -> None:
        """Take a forecast."""
        self.forecast, self.foreseen = forecast, now

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds to go by the forecast, by the pace, else by the stage's own estimate.

        None when none of them is known.
        """
        if self.forecast:
            return max(0.0, self.forecast.left - (now - self.foreseen))
        if self.row.progress is None:
            return None
        (step, steps), (then, first) = self.row.progress, self.pace_from
        if step > first:
            pace = (self.latest - then) / (step - first)
            return max(0.0, pace * (steps - step) - (now - self.latest))
        return self.row.metrics.get("seconds_left")


def running_parts(live: LiveRow, now: float) -> list[str]:
    """Return the parts of a running stage's line: step, metrics, speed, time left and so far."""
    metrics, progress = live.row.metrics, live.row.progress
    parts = [f"step {progress[0]}/{progress[1]}"] if progress else []
    parts += [
        f"{short_name(name)} {metrics[name]:.4g}"
        for name in _live_metrics(live.row.name)
        if name in metrics
    ]
    if speed := next((metrics[name] for name in SPEED if name in metrics), None):
        parts.append(f"{speed:,.0f} tokens/s")
    if (left := live.seconds_left(now)) is not None:
        parts.append(f"{duration(left)} left")
    if live.forecast and live.forecast.money is not None:
        parts.append(f"{live.forecast.price} in all")
    return [*parts, f"{duration(now - live.began)} so far"]


def ended_parts(row: StepRow) -> list[str]:
    """Return the parts of an ended step's line; the first is how it ended."""
    took = duration(row.seconds)
    is_cached = row.state == "cached"
    parts = [
        f"already done (took {took})" if is_cached else f"{row.state} in {took}",
        key_metric(row.name, row.metrics),
        verdict_of(row.decisions),
        "nothing to repeat" if is_cached else "",
        row.note,
        row.error.split("\n")[0],
    ]
    return [part for part in parts if part]


def how_to_approve(event: ApprovalAsked) -> str:
    """Return the sentence for a run that waits for a person."""
    page = f"on Prefect's page {event.page}" if event.page else "on Prefect's page (rlhf ui)"
    evidence = f"; evidence: {event.link}" if event.link else ""
    return (
        f"waiting for a person until {event.until.astimezone():%Y-%m-%d %H:%M}: rlhf approve"
        f" {event.run}, or rlhf approve {event.run} --reject --comment WHY, or {page}{evidence}"
    )


def failure_lines(event: StageAborted) -> list[str]:
    """Return the message, the log's place and its last lines; nothing is said twice."""
    lines = [f"{event.stage}: failed: {event.message}"]
    if str(event.log) not in event.message:
        lines.append(f"  its log is {event.log}")
        if event.message not in "\n".join(event.last_lines):
            lines += [f"  | {line}" for line in event.last_lines]
    return lines


def verdict_of(decisions: Iterable[Decision]) -> str:
    """Return 'gate passed', or a sentence per gate that did not simply pass; '' without a gate."""
    decisions = list(decisions)
    notable = [f"{d.verdict} ({d.gate}): {d.reason}" for d in decisions if d.verdict != "passed"]
    return "; ".join(notable) if notable else ("gate passed" if decisions else "")


def _live_metrics(stage: str) -> tuple[str, ...]:
    return STAGES[stage].live if stage in STAGES else ()
