"""Weights in bfloat16: of models that do not learn, and of models that are saved.

The scalar head stays float32: bfloat16 has 8 significant bits, so that many unequal sequences would
get equal scores. So do buffers: frequencies of rotary positions, correction biases of routers
(DeepSeek-V3, GLM-4-MoE).
"""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from rlhf_core.batching.batch import device
from rlhf_core.config.recipe import Dtype
from rlhf_core.modeling.lora import HEAD


class Autocasting(nn.Module):
    """A module whose passes open autocast to bfloat16 themselves, where `on`.

    DeepSpeed's engine switches off on CUDA what its caller has opened, unless its own configuration
    asks for autocast (deepspeed/runtime/torch_autocast.py, autocast_if_enabled).
    """

    def __init__(self, module: nn.Module, *, on: bool):
        super().__init__()
        self.module, self._on = module, on

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Run the module's forward pass."""
        with torch.autocast(device().type, torch.bfloat16, enabled=self._on):
            return self.module(*inputs, **options)


def computed_dtype(dtype: str, weights: str | None) -> str:
    """Return the number type of a frozen model's matrix products; arguments: as of `inference`."""
    return "bfloat16" if "bfloat16" in (dtype, weights) else dtype


def number_types(
    module: nn.Module, *, half: bool, experts: bool
) -> dict[nn.Parameter, torch.dtype]:
    """Return the number type of each weight of a model that does not learn.

    half: the weights of linear maps are in bfloat16. They are those that autocast rounds in each
    pass: with it the model gives the same numbers. Embeddings, also those that are the output
    layer, norms and maps to one number, as scalar heads, are in float32.
    experts: bfloat16 also for weights of all experts of a layer together. Autocast does not know
    each operation on them, so that numbers may change.
    """
    embeddings = {id(p) for p in _own_parameters(module, nn.Embedding)}
    types = {parameter: _unrounded(parameter.dtype) for parameter in module.parameters()}
    for one in module.modules() if half else ():
        for parameter in one.parameters(recurse=False):
            if id(parameter) not in embeddings and (
                _is_matrix(one, parameter) or (experts and _is_of_experts(one, parameter))
            ):
                types[parameter] = torch.bfloat16
    return types


def _unrounded(dtype: torch.dtype) -> torch.dtype:
    """Return float32 for the shorter types in which weights stay in their files."""
    return torch.float32 if dtype in (torch.bfloat16, torch.float16) else dtype


def _is_matrix(owner: nn.Module, parameter: nn.Parameter) -> bool:
    scalar = isinstance(owner, nn.Linear) and owner.out_features == 1
    return isinstance(owner, nn.Linear | Conv1D) and parameter.ndim == 2 and not scalar


def _is_of_experts(owner: nn.Module, parameter: nn.Parameter) -> bool:
    return parameter.ndim == 3 and not isinstance(owner, nn.Conv1d)


@torch.no_grad()
def round_to_bfloat16(module: nn.Module) -> None:
    """Round the weights to values of bfloat16, in place; they stay float32 tensors.

    The scalar head and buffers stay. Of weights that ZeRO 3 divides, each rank rounds its shard,
    and small ones that it holds whole.
    """
    for parameter in _rounded_parameters(module):
        for held in (parameter, getattr(parameter, "ds_tensor", None)):
            if held is not None:
                held.data.copy_(held.data.bfloat16())


def in_bfloat16(module: nn.Module, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return named weights of a module in bfloat16; names of one tensor share the new one too.

    What round_to_bfloat16 leaves as it is stays float32.
    """
    buffers = {name for name, _ in module.named_buffers(remove_duplicate=False)}
    new: dict[tuple[int, torch.Size], Tensor] = {}
    found = {}
    for name, tensor in weights.items():
        stays = name in buffers or name.startswith(f"{HEAD}.")
        if tensor.dtype != torch.float32 or stays:
            found[name] = tensor
            continue
        key = (tensor.data_ptr(), tensor.shape)
        if key not in new:
            new[key] = tensor.bfloat16()
        found[name] = new[key]
    return found


def saved_dtype(start: Path, *, computed: Dtype, wanted: Dtype | None) -> Dtype:
    """Return the number type in which a trained model is saved.

    wanted: the recipe's; None: that of the folder `start` where training computes in bfloat16, so
    that each product has seen the rounded weights; with an adapter, W and B A apart, while the
    saved W + B A is rounded once. Else float32, which keeps each small step.
    """
    if wanted is not None:
        return wanted
    return "bfloat16" if computed == "bfloat16" and _most_are_bfloat16(start) else "float32"


def _most_are_bfloat16(folder: Path) -> bool:
    kinds = Counter(
        file.get_slice(name).get_dtype()
        for path in folder.glob("*.safetensors")
        for file in [safe_open(path, "pt")]
        for name in sorted(file.keys())
    )
    return kinds["BF16"] > kinds.total() / 2


def _rounded_parameters(module: nn.Module) -> list[nn.Parameter]:
    return [
        parameter
        for name, parameter in module.named_parameters()
        if parameter.dtype == torch.float32 and not name.startswith(f"{HEAD}.")
    ]


def _own_parameters(module: nn.Module, kind: type[nn.Module]) -> Iterator[nn.Parameter]:
    for one in module.modules():
        if isinstance(one, kind):
            yield from one.parameters(recurse=False)
