"""Processes that a test leaves behind are found, named and ended."""

import os
import subprocess
import sys

import left_processes
import psutil

SLEEP = "import time; time.sleep(120)"
NOWHERE = "stdout=s.DEVNULL, stderr=s.DEVNULL"
LEAVE = (
    f"import subprocess as s, sys; print(s.Popen([sys.executable, '-c', {SLEEP!r}], {NOWHERE}).pid)"
)


def test_an_orphan_is_named_with_its_test_and_ended(monkeypatch):
    monkeypatch.setenv(left_processes.MARKER, "of this test")
    monkeypatch.setattr(left_processes, "GRACE_SECONDS", 1.0)
    done = subprocess.run([sys.executable, "-c", LEAVE], capture_output=True, text=True)
    (described,) = left_processes.end_left()
    assert described.startswith(done.stdout.strip()) and SLEEP in described
    assert "test_an_orphan_is_named_with_its_test_and_ended" in described
    ended = int(done.stdout)
    assert not psutil.pid_exists(ended) or psutil.Process(ended).status() == psutil.STATUS_ZOMBIE


def test_a_child_of_this_process_and_processes_of_others_are_left_alone(monkeypatch):
    monkeypatch.setattr(left_processes, "GRACE_SECONDS", 0.0)
    other = subprocess.Popen([sys.executable, "-c", SLEEP], env=os.environ | {"RLHF_X": "1"})
    monkeypatch.setenv(left_processes.MARKER, "of this test")
    child = subprocess.Popen([sys.executable, "-c", SLEEP])
    try:
        assert left_processes.end_left() == []
        assert child.poll() is None and other.poll() is None
    finally:
        for process in (child, other):
            process.kill()
            process.wait()
