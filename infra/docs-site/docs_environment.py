"""The libraries of the site and of the notebooks: .venv/stage/docs, in front of the project's own.

requirements.txt pins them. The project, its runs and its tests do not see them.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

PINS = Path(__file__).resolve().parent / "requirements.txt"


def home() -> Path:
    """Return the folder of the libraries."""
    return Path(sys.prefix) / "docs"


def python(*words: str) -> list[str]:
    """Return a command of this interpreter that sees the libraries."""
    libraries = f"PYTHONPATH={os.pathsep.join([str(home()), *_given()])}"
    templates = f"JUPYTER_PATH={home() / 'share' / 'jupyter'}"
    return ["env", libraries, templates, sys.executable, *words]


def prepare() -> None:
    """Install the libraries unless those of the pins are there. Raises CalledProcessError."""
    pins, stamp = PINS.read_text(encoding="utf-8"), home() / ".ready"
    if stamp.exists() and stamp.read_text(encoding="utf-8") == pins:
        return
    shutil.rmtree(home(), ignore_errors=True)
    words = ("--no-deps", "--target", str(home()), "--requirement", str(PINS))
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *words], check=True)
    stamp.write_text(pins, encoding="utf-8")


def _given() -> list[str]:
    given = os.environ.get("PYTHONPATH")
    return [given] if given else []
