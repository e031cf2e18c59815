"""Weights that stay in their safetensors files until they are needed in another form.

transformers maps a file into memory where a model has the file's number type: the ranks of a host
then share its pages, and no rank holds a copy. The engine turns weight by weight into float32, on
its device or for its share under ZeRO 3. A model that does not learn keeps on a CPU what has its
number type already, and `release_pages` gives the memory of these back between its passes.
"""

import contextlib
import ctypes
import mmap
import sys
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

import torch
from safetensors import safe_open
from torch import nn

from rlhf_core.batching.batch import device
from rlhf_core.config import Training

_frozen: WeakSet[nn.Module] = WeakSet()  # models that nobody writes to
TYPES = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def maps_weights(training: Training) -> bool:
    """Return True where the weights of a model that learns are read from the mapped files.

    Elsewhere the ranks of a CPU hold whole float32 weights anyway.
    """
    return training.zero_stage == 3 or device().type == "cuda"


def type_in_files(folder: Path) -> torch.dtype:
    """Return the number type of all weights in a model folder; float32 where they have several."""
    found: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as tensors:
            names = tensors.keys()
            found |= {tensors.get_slice(name).get_dtype() for name in names}
    return TYPES.get(found.pop(), torch.float32) if len(found) == 1 else torch.float32


def has_rounded_buffers(model: nn.Module) -> bool:
    """Return True if a model made constants of its own in less than float32."""
    return any(b.is_floating_point() and b.dtype != torch.float32 for b in model.buffers())


@contextlib.contextmanager
def as_float32(model: nn.Module) -> Iterator[None]:
    """Let the weights of a model look like float32 ones while open; their values are not there.

    PEFT makes an adapter in the number type of the weights that it is put on.
    """
    held = [(weight, weight.data) for weight in model.parameters()]
    rounded = [(weight, data) for weight, data in held if data.dtype != torch.float32]
    for weight, data in rounded:
        weight.data = torch.zeros((), device=data.device).expand(data.shape)  # no memory
    try:
        yield
    finally:
        for weight, data in rounded:
            weight.data = data


def never_written(model: nn.Module) -> None:
    """Note that the weights of a model stay as they are, for `release_pages`."""
    _frozen.add(model)


def release_pages() -> None:
    """Give the memory of frozen models' weights back that are in their files.

    The kernel keeps the pages in its cache while nobody else needs the memory; the next pass finds
    them there, or reads the files again.
    """
    files = _mapped_files()
    weights = [weight for model in _frozen for weight in model.parameters()] if files else []
    page = mmap.PAGESIZE
    for weight in weights:
        begin, end = weight.data_ptr(), weight.data_ptr() + weight.nbytes
        if any(low <= begin and end <= high for low, high in files):
            first, last = -(-begin // page) * page, end // page * page
            _advise(first, last - first)


def _mapped_files() -> list[tuple[int, int]]:
    """Return the addresses, begin and end, at which files are in this process's memory.

    By their inodes: a cache's file, to which a model's name is a link, has any name.
    """
    if sys.platform != "linux":
        return []
    lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    spans = [span for span, _, _, _, inode, *_ in map(str.split, lines) if inode != "0"]
    return [(int(low, 16), int(high, 16)) for low, high in (span.split("-") for span in spans)]


def _advise(begin: int, size: int) -> None:
    if size > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(size), mmap.MADV_DONTNEED)
