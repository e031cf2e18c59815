"""One language model in several roles, for layouts with fewer than four models."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.batching.batch import Batch
from rlhf_core.engine.base import WrappedModel
from rlhf_core.modeling.lora import acting, load_adapter
from rlhf_core.modeling.models import hidden_states, load_policy, response_logits, scalar_scores

REWARD = "reward"  # the adapter of the reward model


class Trunk(WrappedModel):
    """A causal language model whose forward pass takes a role: one copy of the weights for several.

    "actor": logits (B, R, V), or with a value head also values (B, R + 1). "critic": the values
    alone, from which no gradient reaches the trunk. "reference": logits with every adapter off.
    "reward": scores (B, R + 1) by the reward model's adapter and head. Columns are those of
    PolicyModel and ScalarModel.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        value_head: bool = False,
        reward_adapter: Path | None = None,
    ):
        super().__init__(model)
        width = model.config.hidden_size
        self.value_head = nn.Linear(width, 1, bias=False) if value_head else None
        self.reward_head = load_adapter(model, reward_adapter, REWARD) if reward_adapter else None
        if self.value_head is not None:  # 0: the first advantages are the returns themselves
            nn.init.zeros_(self.value_head.weight)

    def forward(self, batch: Batch, role: str = "actor") -> Tensor | tuple[Tensor, Tensor]:
        """Run the model in this role."""
        if role == "reference":
            with acting(self.model, None):
                return response_logits(self.model, batch)
        if role == "reward":
            assert self.reward_head is not None  # the layout asks a trunk that has one
            with acting(self.model, REWARD):
                return scalar_scores(self.reward_head, hidden_states(self.model, batch), batch)
        if role == "critic":
            assert self.value_head is not None  # the layout asks a trunk that has one
            with torch.no_grad():
                hidden_BLD = hidden_states(self.model, batch)
            return scalar_scores(self.value_head, hidden_BLD, batch)
        if self.value_head is None:
            return response_logits(self.model, batch)
        with _last_hidden(self.model) as kept:
            logits_BRV = response_logits(self.model, batch)
        return logits_BRV, scalar_scores(self.value_head, kept[0], batch)


def load_trunk(
    path: Path, *, value_head: bool = False, reward_adapter: Path | None = None
) -> Trunk:
    """Load a trunk from a model folder. Raises BadInput for a folder without safetensors."""
    return Trunk(load_policy(path).model, value_head=value_head, reward_adapter=reward_adapter)


@contextlib.contextmanager
def _last_hidden(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """Keep what the backbone gives to the output layer.

    The model itself makes the logits, in its own way.
    """
    kept: list[Tensor] = []
    handle = model.base_model.register_forward_hook(
        lambda module, inputs, output: kept.append(output.last_hidden_state)
    )
    try:
        yield kept
    finally:
        handle.remove()
