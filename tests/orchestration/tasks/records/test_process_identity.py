"""The identity of a process distinguishes a killed process, and a later one with its number."""

import json
import os
import signal
import subprocess
import sys

from tasks.records.process_identity import ProcessIdentity

SLEEPER = """
from tasks.records.process_identity import ProcessIdentity
print(ProcessIdentity.current().model_dump_json(), flush=True)
input()
"""


def sleeper() -> tuple[subprocess.Popen, ProcessIdentity]:
    """Start a process that waits; return it with its own report of its identity."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLEEPER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    return process, ProcessIdentity.model_validate(json.loads(process.stdout.readline()))


def test_a_process_runs_until_it_is_killed_even_while_nobody_has_reaped_it():
    process, identity = sleeper()
    try:
        assert identity.is_running() is True and not identity.is_current
        process.send_signal(signal.SIGSTOP)
        assert identity.is_running() is True
        process.kill()
        # dead, and still in the process table
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert identity.is_running() is False
    finally:
        process.kill()
        process.communicate()
    assert identity.is_running() is False


def test_a_later_process_of_the_same_number_is_another_one():
    me = ProcessIdentity.current()
    assert me.is_current and me.is_running() is True
    assert me.model_copy(update={"started": "1"}).is_running() is False
