"""The view of one stage while a pipeline runs, and the words of its line."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from flows.report.text import duration, key_metric, short_name
from rlhf_core.gates.decide import Decision
from rlhf_core.stage_catalogue import STAGES
from tasks.records.events import ApprovalAsked, StageAborted, StageProgress
from tasks.run_result import StepState

CATCH_UP_S = 0.3  # a resumed stage's old steps arrive at once; the pace is counted from after them
SPEED = ("tokens_per_second", "ppo/rollout_tokens_per_second")


@dataclass
class StageView:
    """The state of one stage so far. Times are of the monotonic clock."""

    stage: str
    run_dir: Path | None  # approval and promote have none
    began: float
    step: int = 0
    steps: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    state: StepState = "running"
    seconds: float = 0.0
    decisions: list[Decision] = field(default_factory=list)
    link: str | None = None
    failure: str = ""
    note: str = ""  # what a person is to do, or has said
    first_seen: float | None = None
    latest: float = 0.0
    pace_from: tuple[float, int] = (0.0, 0)

    def progress(self, event: StageProgress, now: float) -> None:
        """Take a step's numbers."""
        if self.first_seen is None:
            self.first_seen = now
        if now - self.first_seen <= CATCH_UP_S:
            self.pace_from = (now, event.step)
        self.step, self.steps = event.step, event.steps
        self.metrics |= event.metrics
        self.latest = now

    def seconds_left(self, now: float) -> float | None:
        """Return the seconds to go at the pace so far, else by the stage's own estimate.

        None when neither is known.
        """
        if not self.steps:
            return None
        then, step = self.pace_from
        if self.step > step:
            pace = (self.latest - then) / (self.step - step)
            return max(0.0, pace * (self.steps - self.step) - (now - self.latest))
        return self.metrics.get("seconds_left")


def running_parts(view: StageView, now: float) -> list[str]:
    """Return the parts of a running stage's line: step, metrics, speed, time left and so far."""
    parts = [f"step {view.step}/{view.steps}"] if view.steps else []
    parts += [
        f"{short_name(name)} {view.metrics[name]:.4g}"
        for name in _live_metrics(view.stage)
        if name in view.metrics
    ]
    if speed := next((view.metrics[name] for name in SPEED if name in view.metrics), None):
        parts.append(f"{speed:,.0f} tokens/s")
    if (left := view.seconds_left(now)) is not None:
        parts.append(f"{duration(left)} left")
    return [*parts, f"{duration(now - view.began)} so far"]


def ended_parts(view: StageView) -> list[str]:
    """Return the parts of an ended stage's line; the first is how it ended."""
    took = f"in {duration(view.seconds)}"
    parts = [
        {"cached": f"already done (took {duration(view.seconds)})"}.get(
            view.state, f"{view.state} {took}"
        )
    ]
    if text := key_metric(view.stage, view.metrics):
        parts.append(text)
    if verdict := verdict_of(view.decisions):
        parts.append(verdict)
    if view.state == "cached":
        parts.append("nothing to repeat")
    if view.note:
        parts.append(view.note)
    if view.failure:
        parts.append(view.failure.splitlines()[0])
    return parts


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
