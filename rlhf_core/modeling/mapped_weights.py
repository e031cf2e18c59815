"""Weights that stay in their safetensors files until they are needed in another form.

transformers maps a file into memory where a model has the file's number type: the ranks of a host
then share its pages, and no rank holds a copy. The engine turns weight by weight into float32, on
its device or for its share under ZeRO 3. A model that does not learn keeps on a CPU what has its
number type already.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import nn

from rlhf_core.batching.batch import device
from rlhf_core.config import Training

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
