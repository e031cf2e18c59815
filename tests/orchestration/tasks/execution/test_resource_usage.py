"""Resource usage of a stage's processes, sampled on real processes."""

import json
import subprocess
import sys
import time

import pytest

from tasks.execution import resource_usage
from tasks.execution.resource_usage import (
    LONGEST_GAP,
    STAGE_CPU,
    STAGE_GPU_MEMORY,
    STAGE_GPUS,
    STAGE_MEMORY,
    ResourceSampler,
    costs,
    hours,
    read,
)

HUNGRY = """
import subprocess, sys
code = "import sys; b = bytearray(120 << 20); print('full', flush=True); sys.stdin.read()"
pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
child = subprocess.Popen([sys.executable, "-c", code], **pipes)
child.stdout.readline()
print("ready", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def hungry():
    """Yield a process whose child holds 120 MiB."""
    process = subprocess.Popen(
        [sys.executable, "-c", HUNGRY], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    process.stdout.readline()
    yield process
    process.stdin.close()
    process.wait(10)


def test_a_sample_counts_the_memory_of_every_descendant(hungry, tmp_path):
    sampler = ResourceSampler(hungry.pid, tmp_path)
    sampler()
    (line,) = read(tmp_path)
    assert (
        120 < line["metrics"][STAGE_MEMORY] < 400
        and line["step"] == 1
        and abs(line["time"] - time.time()) < 60
    )
    assert 0 < line["metrics"]["system/system_memory_usage_percentage"] <= 100
    sampler()  # not due yet
    assert len(read(tmp_path)) == 1


def test_a_resumed_stage_counts_on_and_the_largest_sample_is_the_peak(hungry, tmp_path):
    earlier = {"step": 1, "time": 1.0, "metrics": {STAGE_MEMORY: 9000.0, STAGE_GPU_MEMORY: 5.0}}
    (tmp_path / resource_usage.FILE).write_text(json.dumps(earlier) + "\n")
    ResourceSampler(hungry.pid, tmp_path)()
    assert [line["step"] for line in read(tmp_path)] == [1, 2]
    (tmp_path / "result.json").write_text('{"seconds": 3.5}')
    assert costs(tmp_path) == {
        "seconds": 3.5,
        "peak_memory_mib": 9000.0,
        "peak_gpu_memory_mib": 5.0,
    }


def test_a_process_that_has_ended_leaves_no_sample(tmp_path):
    process = subprocess.Popen([sys.executable, "-c", "pass"])
    sampler = ResourceSampler(process.pid, tmp_path)
    process.wait()
    sampler()
    assert read(tmp_path) == [] and costs(tmp_path) == {}


def test_a_line_cut_off_by_a_kill_is_left_out_and_written_anew(hungry, tmp_path):
    (tmp_path / resource_usage.FILE).write_text(
        '{"step": 1, "time": 1.0, "metrics": {}}\n{"step": 2, "ti'
    )
    assert [line["step"] for line in read(tmp_path)] == [1]
    ResourceSampler(hungry.pid, tmp_path)()
    assert [line["step"] for line in read(tmp_path)] == [1, 2]


def sample(time_: float, **metrics: float) -> str:
    return json.dumps({"step": 1, "time": time_, "metrics": metrics}) + "\n"


def test_hours_are_sums_over_the_samples_of_one_attempt(tmp_path):
    lines = [
        sample(50.0, **{STAGE_CPU: 800.0}),  # of an earlier attempt
        sample(102.0, **{STAGE_CPU: 150.0, STAGE_GPUS: 2.0}),
        sample(104.0, **{STAGE_CPU: 50.0, STAGE_GPUS: 2.0}),
        sample(904.0, **{STAGE_CPU: 100.0, STAGE_GPUS: 2.0}),  # after a long silence
    ]
    (tmp_path / resource_usage.FILE).write_text("".join(lines))
    found = hours(tmp_path, 100_000, 1_000_000)
    assert found["cpu_hours"] == pytest.approx((2 * 1.5 + 2 * 0.5 + LONGEST_GAP * 1.0) / 3600)
    assert found["gpu_hours"] == pytest.approx((2 + 2 + LONGEST_GAP) * 2 / 3600)
    assert hours(tmp_path, 0, 60_000) == {"cpu_hours": pytest.approx(LONGEST_GAP * 8 / 3600)}
    assert hours(tmp_path, 2_000_000, 3_000_000) == {}


@pytest.mark.parametrize(("visible", "count"), [(None, 4), ("0,2", 2), ("", 0), ("-1", 0)])
def test_the_gpus_of_a_stage_are_those_that_it_sees(monkeypatch, visible, count):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resource_usage._visible(4) == count
