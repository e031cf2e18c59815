"""Checkpoints of ZeRO 3, where no rank holds a whole tensor.

Each rank writes its part of weights and AdamW state, and reads the same part back. Every argument
`optimizer` is DeepSpeed's stage 3 optimizer.
"""

from typing import Any

from torch import Tensor, nn

from rlhf_core.engine.state_layout import Group, Layout, WeightPlace
from rlhf_core.ranks import rank, ranks

PREFIX = "shard"


def state(optimizer: Any) -> dict[str, Tensor]:
    """Return the rank's part of the weights (one flat tensor per group) and of AdamW's state.

    All are float32.
    """
    held = optimizer.state_dict()
    tensors = {
        f"{PREFIX}/{index}/weights": value for index, value in enumerate(held["fp32_flat_groups"])
    }
    for index, entry in held["optimizer_state_dict"]["state"].items():
        tensors |= {f"{PREFIX}/{index}/{key}": value for key, value in entry.items()}
    return tensors


def load_state(optimizer: Any, tensors: dict[str, Tensor]) -> None:
    """Load the part that `state` gave on the same rank of the same number of ranks."""
    held = optimizer.state_dict()
    entries: dict[int, dict[str, Tensor]] = {}
    for name, value in tensors.items():
        _, index, key = name.split("/")
        entries.setdefault(int(index), {})[key] = value
    held["fp32_flat_groups"] = [entries[index].pop("weights") for index in sorted(entries)]
    held["optimizer_state_dict"] |= {
        "state": {index: entry for index, entry in entries.items() if entry}
    }
    optimizer.checkpoint_event_prologue()
    optimizer.load_state_dict({rank(): held})  # it expects all ranks' states, and takes its own
    # small weights, which every rank holds whole, are put together again
    optimizer.checkpoint_event_epilogue()


def layout(module: nn.Module, optimizer: Any) -> Layout:
    """Return where the weights are in the tensors that `state` gives."""
    names = {id(p): name for name, p in module.named_parameters()}
    groups = zip(optimizer.fp16_groups, optimizer.fp32_partitioned_groups_flat, strict=True)
    return Layout(
        kind="sliced",
        ranks=ranks(),
        groups=tuple(_group(weights, names, flat.numel()) for weights, flat in groups),
    )


def _group(weights: Any, names: dict[int, str], size: int) -> Group:
    places, offset = [], 0
    for weight in weights:
        places.append(WeightPlace(names[id(weight)], tuple(weight.ds_shape), offset))
        offset += weight.partition_numel()
    return Group(places=tuple(places), size=size)
