"""Checkpoints of ZeRO 0 to 2, where every rank holds whole weights.

From ZeRO 1 on each rank writes its part of AdamW's state. Every argument `optimizer` is the one
that DeepSpeed steps: torch's own at ZeRO 0, else DeepSpeed's around it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from rlhf_core.engine.state_layout import WEIGHTS, Group, Layout, WeightPlace
from rlhf_core.ranks import ranks


def state(module: nn.Module, optimizer: Any) -> dict[str, Tensor]:
    """Return learning weights and AdamW's state as named tensors.

    Frozen weights are left out, since they are an input's, and a tied weight is there once.
    """
    learning = dict(module.named_parameters())
    left_out = _names(module) - {name for name, p in learning.items() if p.requires_grad}
    tensors = {
        f"{WEIGHTS}/{name}": value
        for name, value in module.state_dict().items()
        if name not in left_out
    }
    prefix = "shard/optimizer" if _is_divided(optimizer) else "optimizer"
    for index, entry in _torch_optimizer(optimizer).state_dict()["state"].items():
        tensors |= {f"{prefix}/{index}/{key}": value for key, value in entry.items()}
    return tensors


def load_state(module: nn.Module, optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """Load the tensors that `state` gave. Raises RuntimeError for those of other weights."""
    prefix = f"{WEIGHTS}/"
    weights = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
    _, unexpected = module.load_state_dict(weights, strict=False)
    missing = {n for n, p in module.named_parameters() if p.requires_grad} - weights.keys()
    if unexpected or missing:
        raise RuntimeError(
            f"a checkpoint of other weights: {len(missing)} missing, {len(unexpected)} unknown"
            " names"
        )
    held: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        if not name.startswith(prefix):
            *_, index, key = name.split("/")
            held.setdefault(int(index), {})[key] = value
    inner = _torch_optimizer(optimizer)
    groups = inner.state_dict()["param_groups"]
    inner.load_state_dict({"state": held, "param_groups": groups})
    if _is_divided(optimizer):
        optimizer.refresh_fp32_params()  # ZeRO keeps its own copy of the weights


def layout(module: nn.Module, optimizer: Any) -> Layout:
    """Return where the learning weights are in the tensors that `state` gives."""
    names = {id(p): name for name, p in module.named_parameters()}
    if not _is_divided(optimizer):
        learning = [p for group in optimizer.param_groups for p in group["params"]]
        places = tuple(WeightPlace(names[id(p)], tuple(p.shape), 0) for p in learning)
        return Layout(kind="whole", ranks=ranks(), groups=(Group(places=places),))
    groups = zip(
        optimizer.round_robin_bit16_groups,
        optimizer.round_robin_bit16_offsets,
        optimizer.single_partition_of_fp32_groups,
        strict=True,
    )
    return Layout(
        kind="flat",
        ranks=ranks(),
        groups=tuple(
            Group(
                places=tuple(
                    WeightPlace(names[id(p)], tuple(p.shape), offset)
                    for p, offset in zip(weights, offsets, strict=True)
                ),
                size=own.numel(),
            )
            for weights, offsets, own in groups
        ),
    )


def _names(module: nn.Module) -> set[str]:
    """Return the names of all parameters, those of tied ones too."""
    return {name for name, _ in module.named_parameters(remove_duplicate=False)}


def _is_divided(optimizer: Any) -> bool:
    return hasattr(optimizer, "single_partition_of_fp32_groups")


def _torch_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    return getattr(optimizer, "optimizer", optimizer)
