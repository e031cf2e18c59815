"""The use of a stage, by samples whose sums are known."""

import json

import pytest

from rlhf_core.engine.continued import CONTINUED
from tasks.execution.resource_usage import (
    FILE,
    GPU_ENERGY,
    LONGEST_GAP,
    PROCESSOR_ENERGY,
    STAGE_CPU,
    STAGE_GPUS,
)
from tasks.execution.usage import Usage, UsageReader, usage_between, used


def sample(time: float, seconds: float | None = None, **metrics: float) -> str:
    line = {"step": 1, "time": time, "metrics": metrics}
    return json.dumps(line | ({} if seconds is None else {"seconds": seconds})) + "\n"


def test_hours_are_sums_over_the_samples_of_one_attempt(tmp_path):
    """Samples of an earlier release do not say how long each of them stands for."""
    lines = [
        sample(50.0, **{STAGE_CPU: 800.0}),  # of an earlier attempt
        sample(102.0, **{STAGE_CPU: 150.0, STAGE_GPUS: 2.0}),
        sample(104.0, **{STAGE_CPU: 50.0, STAGE_GPUS: 2.0}),
        sample(904.0, **{STAGE_CPU: 100.0, STAGE_GPUS: 2.0}),  # after a long silence
    ]
    (tmp_path / FILE).write_text("".join(lines))
    found = usage_between(tmp_path, 100_000, 1_000_000)
    assert found.cpu_hours == pytest.approx((2 * 1.5 + 2 * 0.5 + LONGEST_GAP * 1.0) / 3600)
    assert found.gpu_hours == pytest.approx((2 + 2 + LONGEST_GAP) * 2 / 3600)
    first = usage_between(tmp_path, 0, 60_000)
    assert first.costs == {
        "hours": pytest.approx(LONGEST_GAP / 3600),
        "cpu_hours": pytest.approx(LONGEST_GAP * 8 / 3600),
    }
    assert usage_between(tmp_path, 2_000_000, 3_000_000) is None


def test_a_sample_stands_for_its_own_seconds_however_long_the_pause_before_it(tmp_path):
    lines = [
        sample(100.0, 60.0, **{STAGE_CPU: 200.0, GPU_ENERGY: 1.8e6}),
        sample(9000.0, 30.0, **{STAGE_CPU: 100.0, GPU_ENERGY: 1.8e6, PROCESSOR_ENERGY: 3.6e6}),
        sample(9001.0, 1.0),  # the end of an attempt
    ]
    (tmp_path / FILE).write_text("".join(lines))
    found = used(tmp_path)
    assert found.seconds == 91.0 and found.hours == pytest.approx(91 / 3600)
    assert found.cpu_hours == pytest.approx((60 * 2 + 30) / 3600) and found.gpu_hours is None
    assert (found.gpu_kwh, found.cpu_kwh) == (1.0, 1.0)


def test_samples_are_read_on_as_they_come(tmp_path):
    reader = UsageReader(tmp_path)
    assert reader.read() == Usage()
    for number in (1, 2):
        with (tmp_path / FILE).open("a") as file:
            file.write(sample(float(number), 2.0))
        assert reader.read().seconds == reader.read().seconds == 2.0 * number


def test_the_time_of_a_stage_that_went_on_elsewhere_counts_on(tmp_path):
    for name, seconds in (("sft-a", 5.0), ("sft-b", 7.0)):
        (tmp_path / name).mkdir()
        (tmp_path / name / FILE).write_text(sample(1.0, seconds))
    one = {"run_dir": "sft-a", "ranks": 2, "checkpoint": "step-000004"}
    (tmp_path / "sft-b" / CONTINUED).write_text(json.dumps([one]))
    assert used(tmp_path / "sft-b").seconds == 12.0


def test_what_neither_part_has_measured_stays_unknown():
    found = Usage(1.0, 2.0, gpu_kwh=0.5) + Usage(1.0, 1.0, gpu_hours=3.0)
    assert found == Usage(2.0, 3.0, 3.0, 0.5, None)
