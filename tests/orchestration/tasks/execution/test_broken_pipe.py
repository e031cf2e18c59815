"""A deployed run whose worker is killed goes on."""

import subprocess
import sys

LOGS = """
import sys, time
from rich.console import Console
from tasks.execution.broken_pipe import outlive_reader
outlive_reader()
print("ready", flush=True)
sys.stdin.readline()
time.sleep(0.5)
for _ in range(3):  # rich exits on a broken pipe
    Console(file=sys.stdout).print("a line"), Console(stderr=True).print("a line")
    sys.stdout.flush()
open(sys.argv[1], "w").write("went on")
"""


def test_a_run_goes_on_when_the_worker_that_reads_its_output_is_gone(tmp_path):
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    run = subprocess.Popen([sys.executable, "-c", LOGS, str(tmp_path / "end")], text=True, **pipes)
    assert run.stdout.readline() == "ready\n"
    run.stdout.close()
    run.stderr.close()
    run.stdin.write("now\n")
    run.stdin.close()
    assert run.wait(60) == 0 and (tmp_path / "end").read_text() == "went on"
