"""`python -m rlhf_core.engine.warmup`: compile once what DeepSpeed compiles at its first start.

So the first run does not have to.
Exit codes: 0 done, 2 something is missing (the message says how to install it).
"""

import contextlib
import importlib
import io
import os
import shutil
import sys

from rlhf_core.errors import LAST_LINES, BadInput, StageFailed


def require_compiler() -> str:
    """Return the C++ compiler that builds extensions. Raises BadInput when there is none."""
    compiler = os.environ.get("CXX") or "g++"
    if found := shutil.which(compiler):
        return found
    raise BadInput(
        f"no C++ compiler: {compiler!r} is not on PATH. DeepSpeed's CPU communication op is"
        " compiled on this machine. Install one (Debian, Ubuntu: apt-get install g++; Fedora: dnf"
        " install gcc-c++) and try again."
    )


def require_torch() -> None:
    """Import torch. Raises BadInput, with the remedy, when its libraries are missing."""
    try:
        importlib.import_module("torch")
    except (ImportError, OSError) as error:  # OSError: a shared library that the build links to
        raise BadInput(torch_message(str(error))) from error


def torch_message(error: str) -> str:
    """Return the message for a torch that does not import."""
    return (
        f"torch cannot be imported: {error.splitlines()[0] if error else 'unknown reason'}\nA CUDA"
        " build of torch needs its nvidia-* packages, which the lock cpu.txt leaves out."
        " On a CPU machine give pip the index of the CPU builds (--extra-index-url, or"
        " PIP_EXTRA_INDEX_URL; the version then ends in +cpu), remove .venv and run `make setup`"
        " again, or install the wheel again. On a CUDA machine install the lock gpu.txt."
    )


def warm_up() -> float:
    """Compile DeepSpeed's ops; return the seconds. Raises BadInput, StageFailed."""
    require_compiler()
    require_torch()
    from rlhf_core.engine.bootstrap import build_ops

    chatter = io.StringIO()
    try:
        with contextlib.redirect_stdout(chatter):
            return build_ops()
    except (RuntimeError, OSError, ImportError) as error:
        lines = "\n  ".join((chatter.getvalue() + str(error)).splitlines()[-LAST_LINES:])
        raise StageFailed(
            f"DeepSpeed's CPU communication op did not compile:\n  {lines}"
        ) from error


def main() -> int:
    """Warm up; return the exit code."""
    try:
        seconds = warm_up()
    except (BadInput, StageFailed) as error:
        print(f"warm-up: {error}", file=sys.stderr)
        return BadInput.exit_code if isinstance(error, BadInput) else error.exit_code
    print(f"DeepSpeed's ops are compiled for this machine ({seconds:.0f} s)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
