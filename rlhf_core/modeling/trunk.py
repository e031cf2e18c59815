"""One language model in several roles, for layouts with fewer than four models."""

from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.batching.batch import Batch
from rlhf_core.batching.packing import PackedBatch
from rlhf_core.config import LOGITS_MIB
from rlhf_core.engine.base import WrappedModel
from rlhf_core.modeling.lora import acting, load_adapter
from rlhf_core.modeling.models import hidden_states, load_policy, scalar_scores
from rlhf_core.modeling.token_scores import TokenQuery, TokenScores, last_hidden, read_tokens

REWARD = "reward"  # the adapter of the reward model


class Trunk(WrappedModel):
    """A causal language model whose forward pass takes a role: one copy of the weights for several.

    "actor": what a query asks, with a value head also values (B, R + 1). "critic": the values
    alone, from which no gradient reaches the trunk. "reference": as "actor" with every adapter off,
    without values. "reward": scores (B, R + 1) by the reward model's adapter and head. Columns are
    those of PolicyModel and ScalarModel.
    logits_mib: as for PolicyModel.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        value_head: bool = False,
        reward_adapter: Path | None = None,
        logits_mib: int = LOGITS_MIB,
    ):
        super().__init__(model)
        self._limit = logits_mib * 2**20
        width = model.config.hidden_size
        self.value_head = nn.Linear(width, 1, bias=False) if value_head else None
        self.reward_head = load_adapter(model, reward_adapter, REWARD) if reward_adapter else None
        if self.value_head is not None:  # 0: the first advantages are the returns themselves
            nn.init.zeros_(self.value_head.weight)

    def forward(
        self, batch: Batch, role: str = "actor", *, query: TokenQuery | None = None
    ) -> Tensor | tuple[Tensor, Tensor] | TokenScores:
        """Run the model in this role.

        Without a query an actor or reference gives whole logits (B, R, V); with a value head, a
        pair of logits and values.
        """
        row = self.row_of(batch)
        if role == "reference":
            with acting(self.model, None):
                return self._read(batch, row, query)
        if role == "reward":
            assert self.reward_head is not None  # the layout asks a trunk that has one
            with acting(self.model, REWARD):
                hidden_BLD = hidden_states(self.model, row)
                return scalar_scores(self.reward_head, hidden_BLD, batch, row)
        if role == "critic":
            assert self.value_head is not None  # the layout asks a trunk that has one
            with torch.no_grad():
                hidden_BLD = hidden_states(self.model, row)
            return scalar_scores(self.value_head, hidden_BLD, batch, row)
        if self.value_head is None:
            return self._read(batch, row, query)
        with last_hidden(self.model) as kept:
            found = self._read(batch, row, query)
        values_BR1 = scalar_scores(self.value_head, kept[0].last_hidden_state, batch, row)
        if isinstance(found, TokenScores):
            return found._replace(values_BR1=values_BR1)
        return found, values_BR1

    def _read(
        self, batch: Batch, row: Batch | PackedBatch, query: TokenQuery | None
    ) -> Tensor | TokenScores:
        return read_tokens(self.model, batch, row, query, limit=self._limit)


def load_trunk(
    path: Path,
    *,
    value_head: bool = False,
    reward_adapter: Path | None = None,
    logits_mib: int = LOGITS_MIB,
    mapped: bool = False,
) -> Trunk:
    """Load a trunk from a model folder; mapped: as for load_policy.

    Raises BadInput for a folder without safetensors.
    """
    return Trunk(
        load_policy(path, mapped=mapped).model,
        value_head=value_head,
        reward_adapter=reward_adapter,
        logits_mib=logits_mib,
    )
