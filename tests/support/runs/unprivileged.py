"""Commands for which file permissions count, also where the tests run as root."""

import os
import shutil

import pytest

CAPABILITIES = "-dac_override,-dac_read_search"  # by which root reads and writes everything


def without_privileges(*command: str) -> list[str]:
    """Return the command as it runs without root's right to every file; skip where none can."""
    if os.geteuid() != 0:
        return list(command)
    if shutil.which("setpriv") is None:
        pytest.skip("setpriv (util-linux) is not installed, and the tests run as root")
    rights = (f"--bounding-set={CAPABILITIES}", f"--inh-caps={CAPABILITIES}")
    return ["setpriv", *rights, *command]
