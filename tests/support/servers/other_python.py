"""A second interpreter with the libraries of this one, as an environment of its own."""

import subprocess
import sys
from pathlib import Path


def other_python(folder: Path) -> Path:
    """Make a virtual environment over the libraries of this one; return its interpreter.

    This checkout is not installed there.
    """
    words = ["-m", "venv", "--without-pip", str(folder)]
    subprocess.run([sys.executable, *words], check=True)
    (here,) = folder.glob("lib/python*/site-packages")
    places = [name for name in sys.path if name.endswith("site-packages")]
    # libraries alone: the editable installation of a checkout is in a file that is not read
    (here / "libraries.pth").write_text("\n".join(places))
    return folder / "bin" / "python"
