"""The timeline of a run: its spans are nested, of this run alone, and show what overlaps."""

import json
import random
from collections import defaultdict
from pathlib import Path

import pytest

from rlhf_core.errors import BadInput
from rlhf_core.ppo.timeline import TIMELINE
from rlhf_core.rundir import RunDir
from tasks.analysis.timeline import StageTimeline, TimelineSpan, chrome_trace, timelines
from tasks.records.run_record import Record, StageRecord

T0 = 1_800_000_000.0
# (name, track, step, start, end), seconds after T0; ppo is at work from 10 to 30
AHEAD = [
    ("wait", "learner", 1, 11.0, 13.0),
    ("generate", "sampler", 1, 11.0, 13.0),
    ("score", "learner", 1, 13.0, 14.0),
    ("update", "learner", 1, 14.0, 16.0),
    ("generate", "sampler", 2, 13.0, 16.5),
    ("wait", "learner", 2, 16.0, 16.5),
    ("sync", "learner", 1, 16.5, 16.75),
    ("sync", "sampler", 1, 16.5, 16.75),
    ("step", "learner", 1, 11.0, 17.0),
    ("score", "learner", 2, 17.0, 18.0),
    ("update", "learner", 2, 18.0, 20.0),
    ("step", "learner", 2, 17.0, 20.1),
]


def span_lines(spans: list[tuple]) -> str:
    names = ("name", "track", "step", "start", "end")
    lines = [dict(zip(names, span, strict=True)) for span in spans]
    moved = [line | {key: T0 + line[key] for key in ("start", "end")} for line in lines]
    return "".join(json.dumps(line) + "\n" for line in moved)


@pytest.fixture
def record(tmp_path):
    """Return a function that makes a run of these stages: (name, start, end or None, cached)."""

    def made(*stages: tuple[str, float, float | None, bool]) -> Record:
        entries = [
            StageRecord(
                stage=name,
                run_dir=tmp_path / name,
                started=round(1000 * (T0 + start)),
                ended=end and round(1000 * (T0 + end)),
                cached=cached,
            )
            for name, start, end, cached in stages
        ]
        for entry in entries:
            entry.run_dir.mkdir(exist_ok=True)
        return Record(
            id="20270115-000000-abcdef",
            name="tiny-1",
            recipe={},
            commit="c",
            dirty=False,
            tracking_uri="",
            started=0,
            stages=entries,
        )

    return made


def rows(trace: dict) -> dict[tuple[int, int], list[dict]]:
    """Return the spans of each row of the trace file, by process and row."""
    found = defaultdict(list)
    for event in trace["traceEvents"]:
        if event["ph"] == "X":
            found[event["pid"], event["tid"]].append(event)
    return found


def assert_nested(trace: dict) -> None:
    """Check that spans of one row are within each other or apart, and none is negative."""
    for events in rows(trace).values():
        open_ends: list[int] = []
        for event in sorted(events, key=lambda one: (one["ts"], -one["dur"])):
            assert event["dur"] >= 0
            while open_ends and open_ends[-1] <= event["ts"]:
                open_ends.pop()
            end = event["ts"] + event["dur"]
            assert not open_ends or end <= open_ends[-1], event
            open_ends.append(end)


def log_steps(folder: Path, stage: str, *times: float) -> None:
    run = RunDir(folder)
    for step, _ in enumerate(times, start=1):
        run.log(step, len(times), {f"{stage}/lr": 0.1})
    lines = [json.loads(line) for line in run.metrics_path.read_text().splitlines()]
    dated = [line | {"time": T0 + when} for line, when in zip(lines, times, strict=True)]
    run.metrics_path.write_text("".join(json.dumps(line) + "\n" for line in dated))


def test_spans_are_nested_and_generation_ahead_lies_beside_scoring_and_update(record, tmp_path):
    run = record(("sft", 0, 9, False), ("ppo", 10, 30, False))
    log_steps(tmp_path / "sft", "sft", 5.0, 6.0, 8.0)
    (tmp_path / "ppo" / TIMELINE).write_text(span_lines(AHEAD))
    stages = timelines(run)
    trace = json.loads(json.dumps(chrome_trace(run.name, stages)))
    assert_nested(trace)
    sft, learner, sampler = rows(trace)[1, 1], rows(trace)[2, 1], rows(trace)[2, 2]
    assert [(one["name"], one["dur"]) for one in sft] == [
        ("sft", 9_000_000),
        ("load and step 1", 5_000_000),
        ("step 2", 1_000_000),
        ("step 3", 2_000_000),
    ]
    (ahead,) = (one for one in sampler if one["name"] == "generate 2")
    (update,) = (one for one in learner if one["name"] == "update 1")
    assert ahead["ts"] < update["ts"] and ahead["ts"] + ahead["dur"] > update["ts"] + update["dur"]
    names = [e for e in trace["traceEvents"] if e["name"] in ("process_name", "thread_name")]
    assert [e["args"]["name"] for e in names] == ["sft", "learner", "ppo", "learner", "sampler"]
    ppo = stages[1].summary()
    assert ppo == {
        "stage": "ppo",
        "cached": False,
        "seconds": 20.0,
        "steps": 2,
        "generation": pytest.approx(5.5),
        "overlap": pytest.approx(3.0),
    }
    assert stages[0].steps == 3 and stages[0].generation == 0


def test_overlap_counts_each_pair_of_generation_and_learning_in_any_order():
    cuts = [sorted(random.Random(seed).sample(range(1000), 200)) for seed in (1, 2)]
    spans = [
        TimelineSpan(name, track, start, end)
        for name, track, own in (("generate", "sampler", cuts[0]), ("score", "learner", cuts[1]))
        for start, end in zip(own[::2], own[1::2], strict=True)
    ]
    pairs = [(a, b) for a in spans[:100] for b in spans[100:]]
    expected = sum(max(0, min(a.end, b.end) - max(a.start, b.start)) for a, b in pairs)
    random.Random(3).shuffle(spans)
    assert StageTimeline("ppo", tuple(spans), cached=False).overlap == expected > 0
    assert StageTimeline("ppo", (), cached=False).overlap == 0


def test_a_run_shows_its_own_time_alone(record, tmp_path):
    """Leave out an earlier attempt in the same directory, and a stage that had finished before."""
    earlier = [("score", "learner", 1, 1.0, 2.0), ("update", "learner", 1, 2.0, 3.0)]
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / TIMELINE).write_text(span_lines(earlier + AHEAD) + '{"name": "cut o')
    whole, *parts = timelines(record(("ppo", 10, 30, False)))[0].spans
    assert (whole.name, len(parts)) == ("ppo", len(AHEAD))
    (cached,) = timelines(record(("ppo", 10, 10.5, True)))
    assert cached.cached and [span.name for span in cached.spans] == ["ppo"]
    names = [e["args"].get("name") for e in chrome_trace("r", [cached])["traceEvents"]]
    assert "ppo (finished before)" in names


def test_a_stage_without_an_end_reaches_to_the_last_thing_recorded(record, tmp_path):
    (tmp_path / "ppo").mkdir()
    (tmp_path / "ppo" / TIMELINE).write_text(span_lines(AHEAD[:4]))
    (stage,) = timelines(record(("ppo", 10, None, False)))
    assert stage.seconds == pytest.approx(6.0)
    (nothing,) = timelines(record(("validate", 10, None, False)))
    assert nothing.seconds == 0
    assert_nested(chrome_trace("r", [stage, nothing]))


def test_a_run_without_stages_is_refused(record):
    with pytest.raises(BadInput, match=r"tiny-1 has no stages yet.*Wait for it"):
        timelines(record())
