"""One language model in several roles: what layouts with fewer than four models are made of."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.batching.batch import Batch
from rlhf_core.modeling.lora import acting, load_adapter
from rlhf_core.modeling.models import PolicyModel, load_policy

REWARD = "reward"  # the adapter of the reward model


class Trunk(PolicyModel):
    """A causal language model whose forward pass takes a role, so that weights stand in memory
    once.

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
        if self.value_head is not None:
            nn.init.zeros_(
                self.value_head.weight
            )  # the first advantages are the returns themselves

    def forward(self, batch: Batch, role: str = "actor") -> Tensor | tuple[Tensor, Tensor]:
        """What the model says in this role."""
        if role == "reference":
            with acting(self.model, None):
                return super().forward(batch)
        if role == "reward":
            with acting(self.model, REWARD):
                return _scores(self.reward_head, self._hidden(batch), batch)
        if role == "critic":
            with torch.no_grad():
                hidden_BLD = self._hidden(batch)
            return _scores(self.value_head, hidden_BLD, batch)
        if self.value_head is None:
            return super().forward(batch)
        with _last_hidden(self.model) as kept:
            logits_BRV = super().forward(batch)
        return logits_BRV, _scores(self.value_head, kept[0], batch)

    def _hidden(self, batch: Batch) -> Tensor:
        return self.model.base_model(
            input_ids=batch.ids_BL,
            attention_mask=batch.mask_BL.long(),
            position_ids=batch.position_ids_BL,
            use_cache=False,
        ).last_hidden_state


def load_trunk(
    path: Path, *, value_head: bool = False, reward_adapter: Path | None = None
) -> Trunk:
    """A trunk from a model folder. Raises BadInput for a folder without safetensors."""
    return Trunk(load_policy(path).model, value_head=value_head, reward_adapter=reward_adapter)


def _scores(head: nn.Linear, hidden_BLD: Tensor, batch: Batch) -> Tensor:
    R = batch.response_mask_BR.shape[1]
    return head(hidden_BLD[:, -(R + 1) :]).squeeze(-1).float()


@contextlib.contextmanager
def _last_hidden(model: PreTrainedModel) -> Iterator[list[Tensor]]:
    """What the backbone gives to the output layer: the model itself makes the logits, in its own
    way.
    """
    kept: list[Tensor] = []
    handle = model.base_model.register_forward_hook(
        lambda module, inputs, output: kept.append(output.last_hidden_state)
    )
    try:
        yield kept
    finally:
        handle.remove()
