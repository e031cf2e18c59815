"""vLLM's blocks of shared memory, which lose their names once all their processes map them.

vLLM's processes pass messages through blocks in /dev/shm, 160 MiB and more each. A name outlives
its processes where they and their resource tracker are killed together: the block then takes the
host's memory until a restart. Without a name it ends with the last process that maps it.
"""

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

FOLDER = Path("/dev/shm")
PREFIX = "psm_"  # of multiprocessing.shared_memory
# joblib makes a semaphore when it is imported, to see if it can; no other process opens it
SEMAPHORES = "sem.loky-{process}-*"


def unlink_blocks_of(processes: Iterable[int]) -> list[str]:
    """Remove the names of the blocks that these processes map; return the names, sorted.

    Call it when no further process will open one by its name. Other programs' blocks stay. The
    semaphores that joblib made in these processes go too.
    """
    names = set()
    for process in processes:
        names |= _mapped_blocks(process)
        names |= {file.name for file in FOLDER.glob(SEMAPHORES.format(process=process))}
    for name in names:
        (FOLDER / name).unlink(missing_ok=True)
    return sorted(names)


def unlink_own_blocks() -> None:
    """Remove the names of the blocks of vLLM's groups of ranks that this process made.

    Its groups wait until all ranks map a block, so that they are done when `vllm.LLM` is there.
    """
    from vllm.distributed import parallel_state

    for group in parallel_state._groups.values():
        queue: Any = getattr(group(), "mq_broadcaster", None)
        buffer = queue.buffer if queue else None
        if buffer is not None and buffer.is_creator:
            buffer.shared_memory.unlink()
            buffer.is_creator = False  # else it would remove the name once more when it goes


def _mapped_blocks(process: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):  # it has ended
        for line in Path(f"/proc/{process}/maps").read_text(encoding="utf-8").splitlines():
            path = Path(line.split(maxsplit=5)[-1])
            if path.parent == FOLDER and path.name.startswith(PREFIX):
                found.add(path.name)  # "... (deleted)" where the name is gone: it names no file
    return found
