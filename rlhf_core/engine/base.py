"""Engines: what the stages ask of whatever steps an optimizer."""

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from torch import Tensor, nn
from transformers import PreTrainedModel

from rlhf_core.batching.batch import Batch
from rlhf_core.batching.packing import PackedBatch, packed
from rlhf_core.engine.router import RouterLoss
from rlhf_core.engine.state_layout import Layout

# a forward pass: a batch, for a trunk a role, and for a language model a query of token scores
Forward = Callable[..., Any]


class WrappedModel(nn.Module):
    """A transformers model inside a forward pass of this project's own."""

    def __init__(self, model: PreTrainedModel):
        super().__init__()
        self.model = model
        self.router: RouterLoss | None = None  # of a mixture of experts that learns
        self.packing = False  # reads a batch as one row without padding
        self.share_prompts = False  # has neighbours' common prompt once in such a row

    def row_of(self, batch: Batch) -> Batch | PackedBatch:
        """Return what the model reads of a batch: itself, or the same sequences packed."""
        return packed(batch, share_prompts=self.share_prompts) if self.packing else batch

    def with_router_loss(self, loss: Tensor, step_tokens: int, *, counts: bool = True) -> Tensor:
        """Return a microbatch's loss plus the last pass's part of the router's, if there is one.

        step_tokens: those that the model reads in the whole optimizer step, over all ranks.
        counts: as for `Engine.backward`.
        """
        if self.router is None:
            return loss
        return loss + self.router.take(step_tokens, counts=counts)

    def router_metrics(self) -> dict[str, float]:
        """Return this rank's part of the router's loss since the last call, by metric name.

        Nothing for a model without experts.
        """
        return {} if self.router is None else self.router.metrics()


class Engine(Protocol):
    """A module and its optimizer; every rank makes the same calls in the same order."""

    module: WrappedModel  # that learns
    config: dict  # as it is written beside the model

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the module's forward pass, with gradients."""

    def infer(self, *inputs: Any, **options: Any) -> Any:
        """Run the module's forward pass, without gradients."""

    def backward(self, loss: Tensor, *, counts: bool = True) -> None:
        """Accumulate the gradients of one microbatch's loss.

        The loss is divided by a count over the whole step, over all ranks.
        counts: False for a pass that is made only because other ranks still have one to make.
        """

    def step(self, lr: float, *, head_lr: float | None = None) -> float:
        """Take one optimizer step at rate `lr`; return the gradients' global l2 norm.

        The norm is that before clipping.
        head_lr: the rate of the head; None where no part has a rate of its own.
        """

    def release(self) -> None:
        """Free the gathered weights that forward passes kept.

        Called before weights are read or changed. Only where the ranks divide the weights; all of
        them take part.
        """

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each weight of the model with its name, whole; all ranks take part."""

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return the weights to save, on rank 0; None where the module holds them itself."""

    def learning_weights(self) -> dict[str, Tensor]:
        """Return the model's weights that learn, whole, by name; all ranks take part."""

    def state(self) -> dict[str, Tensor]:
        """Return learning weights and optimizer state as named tensors, for a checkpoint."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Load weights and optimizer state from the tensors that `state()` gave."""

    def layout(self) -> Layout:
        """Return where the weights are in the tensors that `state()` gives."""
