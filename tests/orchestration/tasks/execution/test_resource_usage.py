"""Resource usage of a stage's processes, sampled on real processes."""

import json
import subprocess
import sys
import time

import pytest

from tasks.execution import resource_usage
from tasks.execution.resource_usage import (
    STAGE_GPU_MEMORY,
    STAGE_MEMORY,
    ResourceSampler,
    costs,
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
