"""A process that ends at once, with everything that libraries have left for its end done."""

import subprocess
import sys

import pytest

AROUND = """
import atexit, logging, sys
from rlhf_core.process_end import run_and_end
{main}
class Kept:
    def __del__(self): print("looked through")
cycle = [Kept()]; cycle.append(cycle)
run_and_end(main)
"""


def ended(main: str) -> subprocess.CompletedProcess:
    code = AROUND.format(main=main)
    return subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")


@pytest.mark.parametrize("last", ["return 3", "sys.exit(3)"])
def test_output_is_written_and_libraries_end_before_the_process(last):
    done = ended(
        "def main():\n"
        "    atexit.register(print, 'library ended')\n"
        "    import gc\n"
        "    atexit.register(lambda: gc.collect())\n"
        "    print('no end of line', end=' ')\n"
        f"    {last}"
    )
    assert (done.returncode, done.stdout) == (3, "no end of line library ended\n")


@pytest.mark.parametrize("last", ["raise ValueError('why')", "sys.exit('why')"])
def test_an_error_ends_it_as_python_does(last):
    done = ended(f"def main():\n    {last}")
    assert done.returncode == 1 and "why" in done.stderr
    assert done.stdout == "looked through\n"
