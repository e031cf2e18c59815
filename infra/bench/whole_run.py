"""The quickstart as a whole: how long `rlhf run quickstart` takes, twice, and what is not learning.

A stage's process lasts from its spec.json, which is written just before it starts, to its
result.json, which it writes last. What a run takes besides its stages' processes is orchestration.
"""

import subprocess
import sys
import tempfile
import time
from pathlib import Path

from goals import Goal, value
from measured_process import BenchFailed, Measured

from rlhf_core.rundir import read_result
from tasks.execution.stage_process import environment
from tasks.execution.stage_python import FOLDER

COMMAND = ("run", "quickstart")
LABEL = "rlhf run quickstart"
GOALS = (
    Goal("orchestration's share of the quickstart", value(LABEL, "orchestration"), at_most=0.03),
    Goal(
        "start and imports of the stages' processes, share of the quickstart",
        value(LABEL, "imports"),
    ),
    Goal("second `make run`", value(LABEL, "second"), at_most=8.0, unit=" s"),
    Goal("`make run`", value(LABEL, "minutes"), at_most=4.0, unit=" min"),
)


def measure_run() -> Measured:
    """Run the quickstart twice in an empty workspace; return its numbers as one step."""
    with tempfile.TemporaryDirectory(prefix="bench-") as home:
        first, second = _run(home), _run(home)
        spans, learning = zip(*map(_seconds, _run_dirs(home)), strict=True)
    return Measured(
        [
            {
                "step": first,
                "second": second,
                "minutes": first / 60,
                "orchestration": 1 - sum(spans) / first,
                "imports": (sum(spans) - sum(learning)) / first,
            }
        ]
    )


def program() -> Path:
    """Return the `rlhf` that `make run` starts: of .venv, in whose folder `stage` this runs.

    Where there is one environment, it is the one beside this interpreter.
    """
    own = Path(sys.prefix)
    outer = own.parent / "bin" / "rlhf"
    if own.name == FOLDER and outer.exists():
        return outer
    return Path(sys.executable).with_name("rlhf")


def _run_dirs(home: str) -> list[Path]:
    return [path.parent for path in Path(home, "runs").glob("*/result.json")]


def _run(home: str) -> float:
    began = time.monotonic()
    command = [str(program()), *COMMAND]
    done = subprocess.run(
        command, env=environment() | {"RLHF_HOME": home}, capture_output=True, encoding="utf-8"
    )
    if done.returncode:
        last = "\n  ".join((done.stdout + done.stderr).splitlines()[-15:])
        raise BenchFailed(
            f"rlhf run quickstart ended with {done.returncode}; expected 0:\n  {last}"
        )
    return time.monotonic() - began


def _seconds(run_dir: Path) -> tuple[float, float]:
    """Return how long a stage's process lasted, and how long it learnt, seconds."""
    began, ended = ((run_dir / name).stat().st_mtime for name in ("spec.json", "result.json"))
    result = read_result(run_dir)
    assert result  # the run ended well
    return ended - began, result.seconds
