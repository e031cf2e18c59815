"""A process group leaves nothing behind on its host."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

SHARED_MEMORY = Path("/dev/shm")
# The sum is DeepSpeed's own all-reduce, through the shared buffer, after its name is gone.
RANK = """
import os, sys
from pathlib import Path
import deepspeed, torch
from rlhf_core.engine.bootstrap import init_distributed

init_distributed()
mapped = Path("/proc/self/maps").read_text()
assert f"deepspeed_allreduce_buffer_{os.getuid()}_127.0.0.1_{os.environ['MASTER_PORT']}_" in mapped
values = torch.full((4,), float(os.environ["RANK"]) + 1)
deepspeed.comm.inference_all_reduce(values)
print(values.tolist())
"""


@pytest.mark.slow
def test_two_ranks_leave_no_shared_memory_behind():
    """DeepSpeed alone leaves a file of 66 MiB per rank in /dev/shm."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    of_host = {"WORLD_SIZE": "2", "LOCAL_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    of_host |= {"MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK],
            env=os.environ | of_host | {"RANK": rank, "LOCAL_RANK": rank},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    printed = [rank.communicate(timeout=300)[0] for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert all("[3.0, 3.0, 3.0, 3.0]" in text for text in printed)
    assert not list(SHARED_MEMORY.glob(f"deepspeed_allreduce_buffer_*_{port}_*"))
