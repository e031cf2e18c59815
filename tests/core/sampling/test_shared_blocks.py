"""Blocks of shared memory that lose their names."""

import subprocess
import sys
from multiprocessing import shared_memory
from pathlib import Path

from rlhf_core.sampling.shared_blocks import FOLDER, unlink_blocks_of

HOLDER = """
from multiprocessing import shared_memory
block = shared_memory.SharedMemory(create=True, size=4096)
print(block.name, flush=True)
input()
"""


def test_blocks_that_a_process_maps_lose_their_names_and_others_stay():
    other = shared_memory.SharedMemory(create=True, size=4096)
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # its resource tracker misses the name
        text=True,
    ) as holder:
        name = holder.stdout.readline().strip()
        semaphore, of_another = (
            FOLDER / f"sem.loky-{pid}-test" for pid in (holder.pid, f"{holder.pid}0")
        )
        semaphore.touch()
        of_another.touch()
        assert (FOLDER / name).exists()
        assert unlink_blocks_of([holder.pid]) == [name, semaphore.name]
        assert not (FOLDER / name).exists() and not semaphore.exists()
        of_another.unlink()  # it stayed
        assert f"{FOLDER / name} (deleted)" in Path(f"/proc/{holder.pid}/maps").read_text()
        holder.kill()
    assert (FOLDER / other.name).exists()
    other.close()
    other.unlink()


def test_a_process_that_has_ended_maps_none():
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert unlink_blocks_of([done.pid]) == []
    assert unlink_blocks_of([]) == []
