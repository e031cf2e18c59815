"""The environment of the commands of a clone, beside that of these tests."""

import os
import sys
from pathlib import Path


def python_of_commands() -> Path:
    """Return the interpreter of .venv, in whose folder `stage` these tests run."""
    own = Path(sys.prefix)
    found = own.parent / "bin" / "python"
    assert own.name == "stage" and found.exists(), (
        f"these tests run in {own}; expected .venv/stage beside .venv, as make setup makes them:"
        " make test, or .venv/stage/bin/python -m pytest"
    )
    return found


def with_platform() -> dict[str, str]:
    """Return the environment variables by which it finds what the images hold besides."""
    return {**os.environ, "PYTHONPATH": str(python_of_commands().parents[1] / "platform")}
