"""The timeline of a pipeline run, as the trace file that Perfetto and Chrome draw.

Everything comes from the run's record and its run directories. Each stage is a process of the file
with two rows: the learner (stage, steps, and their parts within) and the sampler. The format is
Chrome's: https://docs.google.com/document/d/1CvAClvFfyA5R-PhYUmn5OOQtYMH4h6I0nSsKchNAySU
"""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from rlhf_core.errors import BadInput
from rlhf_core.ppo.timeline import TIMELINE, Track
from rlhf_core.rundir import new_lines
from tasks.records.run_record import Record, StageRecord

ROWS: dict[Track, int] = {"learner": 1, "sampler": 2}
FIRST = "load and step"  # of a stage that records no spans
LEARNING = ("score", "update")  # parts of a step in which the sampler may work too


@dataclass(frozen=True)
class TimelineSpan:
    """A part of a stage's time. start, end: seconds since the epoch."""

    name: str
    track: Track
    start: float
    end: float
    step: int | None = None


@dataclass(frozen=True)
class StageTimeline:
    """The spans of one stage that fell into a run, by their ends.

    cached: the stage was finished before, so that only its own span is of this run.
    """

    stage: str
    spans: tuple[TimelineSpan, ...]
    cached: bool

    @property
    def steps(self) -> int:
        """The number of steps that ran."""
        return len({span.step for span in self._named("step", FIRST)})

    @property
    def seconds(self) -> float:
        """The seconds of the stage."""
        (whole,) = (span for span in self.spans if span.name == self.stage)
        return whole.end - whole.start

    @property
    def generation(self) -> float:
        """The seconds in which the sampler generated."""
        return sum(span.end - span.start for span in self._named("generate"))

    @property
    def overlap(self) -> float:
        """The seconds in which the sampler generated while the learner scored or updated."""
        return _shared_seconds(self._named("generate"), self._named(*LEARNING))

    def summary(self) -> dict:
        """Return the figures of the stage as JSON values; times in seconds."""
        return {
            "stage": self.stage,
            "cached": self.cached,
            "seconds": self.seconds,
            "steps": self.steps,
            "generation": self.generation,
            "overlap": self.overlap,
        }

    def _named(self, *names: str) -> list[TimelineSpan]:
        return [span for span in self.spans if span.name in names]


def _shared_seconds(first: list[TimelineSpan], second: list[TimelineSpan]) -> float:
    """Return the seconds in which a span of each list runs; spans of one list do not overlap."""
    rows = [sorted(spans, key=lambda span: span.start) for spans in (first, second)]
    places, shared = [0, 0], 0.0
    while places[0] < len(rows[0]) and places[1] < len(rows[1]):
        one, other = (spans[place] for spans, place in zip(rows, places, strict=True))
        shared += max(0.0, min(one.end, other.end) - max(one.start, other.start))
        places[one.end > other.end] += 1  # the one that ends first meets no further span
    return shared


def timelines(record: Record) -> list[StageTimeline]:
    """Return the timeline of each stage of a run. Raises BadInput for a run without stages."""
    if not record.stages:
        raise BadInput(
            f"run {record.name} has no stages yet; expected one that has started a stage. Wait for"
            " it, or name another run (rlhf status)."
        )
    return [_stage(stage, record) for stage in record.stages]


def _stage(stage: StageRecord, record: Record) -> StageTimeline:
    ended, start = stage.ended or record.ended, stage.started / 1000
    until = ended / 1000 if ended else math.inf  # no end: it runs, or its process is gone
    found = [] if stage.cached else _parts(stage.run_dir, start)
    parts = [span for span in found if start <= span.start and span.end <= until]
    end = until if ended else max([start, *(span.end for span in parts)])
    whole = TimelineSpan(stage.stage, "learner", start, end)
    return StageTimeline(stage.stage, (whole, *parts), stage.cached)


def _parts(run_dir: Path, start: float) -> list[TimelineSpan]:
    """Return the spans in a run directory, also those of earlier attempts."""
    recorded = [TimelineSpan(**line) for line in new_lines(run_dir / TIMELINE, 0)[0]]
    return recorded or list(_logged_steps(run_dir, start))


def _logged_steps(run_dir: Path, start: float) -> Iterator[TimelineSpan]:
    """Yield the steps of a stage that records no spans, each from the line before it to its own.

    Before the first line are loading and the first step, from `start` on.
    """
    lines = new_lines(run_dir / "metrics.jsonl", 0)[0]
    own = [line for line in lines if line["time"] >= start]
    if own:
        yield TimelineSpan(FIRST, "learner", start, own[0]["time"], own[0]["step"])
    for before, line in pairwise(own):
        yield TimelineSpan("step", "learner", before["time"], line["time"], line["step"])


def chrome_trace(run: str, stages: Iterable[StageTimeline]) -> dict:
    """Return the trace file of a run as JSON values. Times are microseconds since the epoch."""
    events = []
    for number, stage in enumerate(stages, start=1):
        events += _names(number, stage)
        events += [_event(number, stage, span) for span in stage.spans]
    return {"traceEvents": events, "displayTimeUnit": "ms", "otherData": {"run": run}}


def _names(number: int, stage: StageTimeline) -> list[dict]:
    """Return the events that name a stage's process and its rows, and put them in order."""
    common = {"ph": "M", "pid": number}
    used = {span.track for span in stage.spans}
    title = f"{stage.stage} (finished before)" if stage.cached else stage.stage
    return [
        common | {"name": "process_name", "args": {"name": title}},
        common | {"name": "process_sort_index", "args": {"sort_index": number}},
        *(
            common | {"name": "thread_name", "tid": row, "args": {"name": track}}
            for track, row in ROWS.items()
            if track in used
        ),
    ]


def _event(number: int, stage: StageTimeline, span: TimelineSpan) -> dict:
    start, end = (round(seconds * 1e6) for seconds in (span.start, span.end))
    return {
        "name": span.name if span.step is None else f"{span.name} {span.step}",
        "cat": stage.stage,
        "ph": "X",
        "ts": start,
        "dur": end - start,
        "pid": number,
        "tid": ROWS[span.track],
        "args": {} if span.step is None else {"step": span.step},
    }
