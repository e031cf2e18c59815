"""One thread or process at a time holds a lock; a dead process frees it."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

from tasks.records.file_lock import locked


def test_threads_hold_the_lock_one_after_the_other(tmp_path):
    holding, most = [], []

    def hold(number: int) -> None:
        for _ in range(50):
            with locked(tmp_path / "lock"):
                holding.append(number)
                most.append(len(holding))
                holding.remove(number)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(hold, range(8)))
    assert max(most) == 1 and len(most) == 400


def test_a_process_that_dies_with_the_lock_frees_it(tmp_path):
    program = (
        "import os, pathlib, sys; from tasks.records.file_lock import locked\n"
        "with locked(pathlib.Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "lock")])
    assert done.returncode == -9
    with locked(tmp_path / "lock"):
        pass
