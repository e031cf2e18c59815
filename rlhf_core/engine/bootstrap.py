"""Prepare a process for DeepSpeed: environment, compiled ops, the process group."""

import contextlib
import fcntl
import os
import socket
import sys
import time
import zlib
from datetime import timedelta
from pathlib import Path

import torch

# How long a rank waits for another, which may still generate or compile its first kernels.
TIMEOUT = timedelta(minutes=30)


def add_scripts_to_path() -> None:
    """Let child processes find this environment's programs.

    DeepSpeed's extension builder starts `ninja` by name.
    """
    scripts = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if scripts not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [scripts, path]))


def keep_extensions_here() -> Path | None:
    """Keep compiled ops in this environment and return their folder.

    In the home cache two environments undo each other's build. So do two paths of one environment
    (a link to it), since the build records where its headers are: each path has its own folder.
    None: the environment is read-only, or TORCH_EXTENSIONS_DIR is set already.
    """
    if not os.access(sys.prefix, os.W_OK):
        return None
    own = Path(sys.prefix) / "var" / f"torch_extensions-{zlib.crc32(sys.prefix.encode()):08x}"
    return own if os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(own)) == str(own) else None


def load_ops() -> None:
    """Load DeepSpeed's communication op, compiled at its first use on this machine.

    torch waits without end for the lock file of a build that was killed. Builds in this
    environment's own folder therefore queue here first: a lock file found at the head of the queue
    is a dead one.
    """
    from deepspeed.comm.torch import build_shm_op

    with contextlib.ExitStack() as stack:
        if folder := keep_extensions_here():
            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(
                stack.enter_context((folder / ".queue").open("w", encoding="utf-8")), fcntl.LOCK_EX
            )
            for dead in folder.glob("*/lock"):
                dead.unlink(missing_ok=True)
        build_shm_op()


def init_distributed() -> None:
    """Start this process's process group, over gloo on the CPU; do nothing when there is one."""
    import deepspeed

    if torch.distributed.is_initialized():
        return
    add_scripts_to_path()
    load_ops()
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    missing = {name: value for name, value in alone.items() if name not in os.environ}
    os.environ.update(missing)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=TIMEOUT
    )
    if backend == "gloo":
        _unlink_shared_buffer()
    if "MASTER_PORT" in missing:  # taken now: a child process that inherited it could not listen
        del os.environ["MASTER_PORT"]


def _unlink_shared_buffer() -> None:
    """Remove the name of this rank's buffer for all-reduce among the ranks of one host.

    DeepSpeed never removes it: each stage of several ranks would keep 66 MiB per rank of the host's
    memory, in /dev/shm, until a restart. Without a name the buffer ends with the last process that
    maps it, also when that is killed. Behind the barrier all ranks have mapped it.
    """
    torch.distributed.barrier()
    address = f"{os.environ['MASTER_ADDR']}_{os.environ['MASTER_PORT']}"
    rank = torch.distributed.get_rank()
    name = f"deepspeed_allreduce_buffer_{os.getuid()}_{address}_{rank}"
    (Path("/dev/shm") / name).unlink(missing_ok=True)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def build_ops() -> float:
    """Compile what DeepSpeed compiles at its first start on this machine; return the seconds."""
    started = time.monotonic()
    init_distributed()
    torch.distributed.destroy_process_group()
    return time.monotonic() - started
