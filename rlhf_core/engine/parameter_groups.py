"""Groups of weights for AdamW: which ones decay, and which ones have a rate of their own."""

from dataclasses import dataclass

from torch import Tensor, nn


@dataclass(frozen=True)
class ParameterGroup:
    """Weights that share a rate and a decay."""

    weights: list[Tensor]
    of_head: bool  # has the head's rate
    weight_decay: float


def parameter_groups(
    module: nn.Module, head: nn.Module | None, weight_decay: float
) -> list[ParameterGroup]:
    """Return the learning weights of a module in groups, none of them empty.

    head: a part of the module with a rate of its own.
    Matrices decay, those of embeddings and adapters too; biases and the weights of norms do not, as
    in transformers' Trainer: they are few, and pulling a scale towards 0 regularises nothing.
    """
    own = set(head.parameters()) if head is not None else set()
    learning = {name: p for name, p in module.named_parameters() if p.requires_grad}
    groups = [
        ParameterGroup(
            [
                p
                for name, p in learning.items()
                if (p in own) == of_head and (not weight_decay or decays(name, p) == bool(decay))
            ],
            of_head,
            decay,
        )
        for of_head in (False, True)
        # without decay one group, so that sums over weights keep their order
        for decay in ((weight_decay, 0.0) if weight_decay else (0.0,))
    ]
    return [group for group in groups if group.weights]


def decays(name: str, parameter: Tensor) -> bool:
    """Say if weight decay applies: to tensors of two axes or more that are no bias and no norm.

    Some families' biases of experts and norms of heads have two axes; their names tell.
    """
    *_, owner, own = ("", *name.split("."))
    return parameter.dim() >= 2 and not own.endswith("bias") and "norm" not in owner.lower()
