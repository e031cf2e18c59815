"""Resource usage of a stage's processes, sampled on real processes."""

import json
import subprocess
import sys
import time

import pytest

from tasks.execution import resource_usage
from tasks.execution.energy import GPU, EnergyCounter, EnergyMeter
from tasks.execution.resource_usage import (
    GPU_ENERGY,
    PROCESSOR_ENERGY,
    STAGE_GPU_MEMORY,
    STAGE_MEMORY,
    ResourceSampler,
)
from tasks.execution.usage import costs, read, used

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


def test_every_second_of_a_stage_is_in_one_sample(hungry, tmp_path):
    started = time.monotonic()
    sampler = ResourceSampler(hungry.pid, tmp_path)
    sampler()
    time.sleep(0.05)
    sampler.end()
    assert used(tmp_path).seconds == pytest.approx(time.monotonic() - started, abs=0.04)


def test_energy_is_recorded_where_counters_are(hungry, tmp_path):
    readings = iter([100.0, 130.0, 190.0])
    meter = EnergyMeter([EnergyCounter(GPU, lambda: next(readings))])
    sampler = ResourceSampler(hungry.pid, tmp_path, meter)
    sampler()
    sampler.end()
    lines = [line["metrics"] for line in read(tmp_path)]
    assert [line[GPU_ENERGY] for line in lines] == [30.0, 60.0]
    assert not any(PROCESSOR_ENERGY in line for line in lines)
    assert used(tmp_path).gpu_kwh == pytest.approx(90.0 / 3.6e6) and used(tmp_path).cpu_kwh is None


@pytest.mark.parametrize(("visible", "count"), [(None, 4), ("0,2", 2), ("", 0), ("-1", 0)])
def test_the_gpus_of_a_stage_are_those_that_it_sees(monkeypatch, visible, count):
    if visible is None:
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    else:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert resource_usage._visible(4) == count
