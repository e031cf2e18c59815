"""A command as a process group that ends with its parent."""

import os
import signal
import subprocess
import sys
import textwrap

import psutil
import pytest

from tasks.execution.guarded_process import GuardedProcess

SLEEP = [sys.executable, "-c", "import time; time.sleep(300)"]


def test_end_and_terminate_reach_the_command_behind_the_guard():
    talking = [sys.executable, "-c", "import time; print(1, flush=True); time.sleep(300)"]
    process = GuardedProcess(talking, stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"1\n"
    assert os.getpgid(process.pid) == process.pid != os.getpgrp()
    process.terminate()
    assert process.wait(20) == 128 + signal.SIGTERM
    process.end()
    process.stdout.close()


def test_a_group_that_has_ended_can_be_ended_again():
    process = GuardedProcess([sys.executable, "-c", "pass"])
    assert process.wait(20) == 0
    process.end()
    process.end()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_parent_ends_the_group(how):
    code = f"""
    from tasks.execution.guarded_process import GuardedProcess
    process = GuardedProcess({SLEEP!r})
    print("started", flush=True)
    process.wait()
    """
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout.readline() == "started\n"
    group = psutil.Process(parent.pid).children(recursive=True)
    assert group
    parent.send_signal(how)
    parent.communicate()
    assert psutil.wait_procs(group, timeout=30)[1] == []
