"""The load-balancing loss of a mixture of experts, taken from the passes in which it learns."""

import inspect
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.errors import BadInput


class RouterLoss:
    """The balancing loss of the last pass with gradients, by the model family's own formula.

    Fedus et al. 2021, Switch Transformers, arXiv:2101.03961, eq. 4 to 6, as transformers has it:
    padding counts nowhere, and at perfect balance it is the number of experts per token.
    """

    def __init__(self, model: PreTrainedModel, coefficient: float):
        self.coefficient = coefficient
        self._kept: Tensor | None = None  # loss * tokens
        self._step: float | None = None  # this rank's part of the step's loss
        own = "output_router_logits" in inspect.signature(model.forward).parameters
        self._function = None if own else _formula(model)
        source = model if own else model.base_model  # a classifier does not ask its backbone
        source.register_forward_pre_hook(self._ask, with_kwargs=True)
        source.register_forward_hook(self._keep, with_kwargs=True)

    def take(self, step_tokens: int, *, counts: bool) -> Tensor | float:
        """Return coefficient * loss * the pass's share of the step's tokens, and forget the pass.

        step_tokens: those that the model reads in the whole optimizer step, over all ranks, without
        padding. The sum over a step's microbatches is their mean, weighted by tokens. 0 when the
        last pass had no gradients in the experts.
        counts: False for a pass that is made only because other ranks still have one to make.
        """
        kept, self._kept = self._kept, None
        if kept is None:
            return 0.0
        if counts:
            self._step = (self._step or 0.0) + float(kept.detach()) / step_tokens
        return self.coefficient * kept / step_tokens

    def metrics(self) -> dict[str, float]:
        """Return this rank's part of the loss since the last call, before its coefficient."""
        found, self._step = self._step, None
        return {} if found is None else {"router_loss": found}

    def _ask(self, module: nn.Module, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
        self._kept = None
        return args, kwargs | {"output_router_logits": torch.is_grad_enabled()}

    def _keep(self, module: nn.Module, args: tuple, kwargs: dict, output: Any) -> None:
        if not torch.is_grad_enabled():
            return
        mask_BL = kwargs.get("attention_mask")
        if self._function is None:
            loss = output.aux_loss
        else:
            loss = self._function(output.router_logits, mask_BL)
        if not isinstance(loss, Tensor):  # no layer has experts
            return
        inputs = kwargs.get("input_ids")
        inputs = kwargs["inputs_embeds"] if inputs is None else inputs
        tokens = inputs.shape[0] * inputs.shape[1] if mask_BL is None else mask_BL.sum()
        self._kept = loss * tokens


def router_loss(model: PreTrainedModel, coefficient: float | None) -> RouterLoss | None:
    """Return the balancing loss of a model, or None for a model without or a coefficient of 0.

    coefficient: None for the model's own. Raises BadInput for one above 0 where the model has no
    router that transformers balances.
    """
    own = getattr(model.config.get_text_config(), "router_aux_loss_coef", None)
    if own is None or _formula(model) is None:
        if coefficient:
            raise BadInput(
                f"router_aux_loss_coef is {coefficient:g}, but {type(model).__name__} has no"
                " experts with a load-balancing loss in transformers; leave router_aux_loss_coef"
                " out"
            )
        return None
    coefficient = own if coefficient is None else coefficient
    return RouterLoss(model, coefficient) if coefficient else None


def _formula(model: PreTrainedModel) -> Callable[[Any, Tensor | None], Tensor | int] | None:
    """Return the family's load-balancing loss of router logits and mask, if it has one."""
    function = getattr(sys.modules[type(model).__module__], "load_balancing_loss_func", None)
    config = model.config.get_text_config()
    experts = getattr(config, "num_experts", getattr(config, "num_local_experts", None))
    if function is None or not experts:
        return None
    return lambda logits, mask_BL: function(logits, experts, config.num_experts_per_tok, mask_BL)
