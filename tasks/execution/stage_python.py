"""The interpreter of the stages.

Stages need torch, vLLM and DeepSpeed; commands, flows, tracking and registry do not. The two sides
have an environment each in a clone, since vLLM and the current Prefect exclude each other in one.
"""

import os
import sys
from pathlib import Path

from rlhf_core import ROOT
from rlhf_core.errors import BadInput
from tasks.records.shipped import is_installed

VARIABLE = "RLHF_STAGE_PYTHON"
FOLDER = "stage"  # of the environment of the stages, in that of the commands


def stage_python() -> str:
    """Return the interpreter of every process that needs torch, vLLM or DeepSpeed.

    It is that of RLHF_STAGE_PYTHON, else `stage/bin/python` in this virtual environment where that
    is there, else this one. Raises BadInput when the variable names no program.
    """
    named = os.environ.get(VARIABLE, "").strip()
    if not named:
        return _default()
    found = Path(named).expanduser().absolute()
    if not found.is_file() or not os.access(found, os.X_OK):
        raise BadInput(
            f"{VARIABLE} is {named!r}, and {found} is no program; expected the Python interpreter"
            " of the environment with torch, such as /opt/stage/bin/python. Correct it, or unset"
            f" it to run the stages with {_default()}."
        )
    return str(found)


def _default() -> str:
    within = Path(sys.prefix) / FOLDER / "bin" / "python"
    return str(within) if within.exists() else sys.executable


def keep_absolute() -> None:
    """Make a relative path in RLHF_STAGE_PYTHON absolute, for processes in other folders."""
    if named := os.environ.get(VARIABLE, "").strip():
        os.environ[VARIABLE] = str(Path(named).expanduser().absolute())


def is_separate() -> bool:
    """Return True where the stages have another environment than this process."""
    # an environment's interpreters are links to one program: their folders tell them apart
    return Path(stage_python()).parent.resolve() != Path(sys.executable).parent.resolve()


def stage_variables() -> dict[str, str]:
    """Return the variables by which another environment finds this code, of a checkout.

    An installed project must be installed in both.
    """
    if is_installed() or not is_separate():
        return {}
    paths = [str(ROOT), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
    return {"PYTHONPATH": os.pathsep.join(filter(None, dict.fromkeys(paths)))}
