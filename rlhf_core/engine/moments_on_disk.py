"""AdamW's moments in a file that is mapped into memory, and in memory during its steps alone.

Between two steps the pages are the kernel's: it keeps them in its cache while nobody else needs the
memory. The numbers are those of moments in memory, bit for bit. ZeRO-Infinity (Rajbhandari et al.
2021, arXiv:2104.07857) keeps them on disk too; DeepSpeed's own needs ZeRO 3 and libaio.
"""

import ctypes
import mmap
import os
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_core.errors import BadInput

MOMENTS = ("exp_avg", "exp_avg_sq")
FLOAT = 4
ALIGNED = 16  # floats: 64 bytes, as torch aligns its own tensors


class MomentsOnDisk:
    """The moments of one AdamW, in a file without a name, which is gone with the process."""

    def __init__(self, optimizer: torch.optim.Optimizer, weights: list[Tensor], folder: Path):
        """Keep the moments of these weights in a file in `folder`, before the first step.

        Raises BadInput where the disk has no room for them.
        """
        self._pages, self._moments = _in_file(weights, folder)
        for weight in weights:  # as AdamW makes it in its first step
            optimizer.state[weight]["step"] = torch.zeros((), dtype=torch.float32)
        self._move(optimizer)
        optimizer.register_load_state_dict_post_hook(self._move)
        optimizer.register_step_pre_hook(lambda *_: free_unused())
        optimizer.register_step_post_hook(lambda *_: self._release())

    def _move(self, optimizer: torch.optim.Optimizer) -> None:
        for weight, state in optimizer.state.items():
            for name in MOMENTS:
                own = self._moments[weight, name]
                if name in state:
                    own.copy_(state[name])
                state[name] = own
        self._release()

    def _release(self) -> None:
        self._pages.madvise(mmap.MADV_DONTNEED)  # of a shared file: nothing is lost


def _in_file(
    weights: list[Tensor], folder: Path
) -> tuple[mmap.mmap, dict[tuple[Tensor, str], Tensor]]:
    """Return the pages of a new file, and in them zeros for each moment of each weight."""
    places, size = {}, 0
    for weight in weights:
        for name in MOMENTS:
            places[weight, name] = size
            size += -(-weight.numel() // ALIGNED) * ALIGNED
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            os.posix_fallocate(file.fileno(), 0, max(1, size) * FLOAT)
        except OSError as error:
            raise BadInput(
                f"offload_optimizer 'disk' needs {size * FLOAT / 2**30:.2f} GiB in {folder}:"
                f" {error.strerror}; free them, or set TMPDIR to a folder of a larger disk"
            ) from None
        pages = mmap.mmap(file.fileno(), 0)
    whole = torch.frombuffer(pages, dtype=torch.float32)
    return pages, {
        (weight, name): whole[place : place + weight.numel()].view(weight.shape)
        for (weight, name), place in places.items()
    }


def free_unused() -> None:
    """Return to the system what glibc's allocator keeps of freed tensors."""
    trim: Any = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
