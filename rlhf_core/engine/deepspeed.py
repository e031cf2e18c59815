"""The engine over DeepSpeed: AdamW steps with ZeRO, offloading and activation checkpointing."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rlhf_core.batching.batch import device
from rlhf_core.config import Training
from rlhf_core.engine import replicated_checkpoint, zero3_checkpoint
from rlhf_core.engine.base import Engine, WrappedModel
from rlhf_core.engine.bootstrap import init_distributed
from rlhf_core.engine.gathering import gathered_weights
from rlhf_core.engine.moments_on_disk import MomentsOnDisk
from rlhf_core.engine.parameter_groups import ParameterGroup, parameter_groups
from rlhf_core.engine.router import router_loss
from rlhf_core.engine.scratch import moments_folder
from rlhf_core.engine.state_layout import Layout
from rlhf_core.errors import BadInput
from rlhf_core.ranks import is_rank_zero, ranks

ADAM_BETAS = (0.9, 0.95)
ADAM_EPS = 1e-8
# elements of a gradient bucket under ZeRO; DeepSpeed's own 5 * 10^8 are 2 GB per device and type
REDUCE_BUCKET = 50_000_000


def deepspeed_config(training: Training, dtype: str) -> dict:
    """Return the DeepSpeed configuration of a stage; the optimizer itself is torch's AdamW."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # microbatches differ in size: the loss carries its own denominator
        "managed_gradient_accumulation": False,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": {"stage": training.zero_stage, "reduce_bucket_size": REDUCE_BUCKET}
        | _offload(training),
        "torch_autocast": {"enabled": dtype == "bfloat16", "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
        # offloaded, it is torch's AdamW still: the same numbers
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def _offload(training: Training) -> dict:
    return (
        {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
        if training.offload_optimizer and training.zero_stage
        else {}
    )


class DeepSpeedEngine(Engine):
    """A module whose AdamW steps go through DeepSpeed."""

    def __init__(
        self, module: WrappedModel, training: Training, *, dtype: str, head: nn.Module | None = None
    ):
        """Wrap a module; `head` is a part of it that has a learning rate of its own."""
        import deepspeed

        init_distributed()
        module.router = router_loss(module.model, training.router_aux_loss_coef)
        if training.activation_checkpointing:
            _checkpoint_activations(module, training.zero_stage)
        self.config = deepspeed_config(training, dtype)
        self._sharded = training.zero_stage == 3
        groups = parameter_groups(module, head, training.weight_decay)
        self._of_head = [group.of_head for group in groups]
        optimizer = _optimizer(groups)
        if self._sharded:
            divide(module, self.config)
        else:
            module.to(device(), torch.float32)
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self.config
        )
        self.module = module
        if folder := moments_folder(training, cuda=device().type == "cuda"):
            MomentsOnDisk(optimizer, self._stepped(), folder)
        # of adapters; models have none
        self._dropouts = [m for m in module.modules() if isinstance(m, nn.Dropout) and m.p > 0]
        _keep_norm(self._engine, module, training.max_grad_norm)
        # DeepSpeed would copy all gradients to one tensor and back, for nobody
        self._alone = ranks() == 1 and training.zero_stage == 0
        self._engine.enable_backward_allreduce = not self._alone

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Run the module's forward pass, with gradients."""
        self._drop(True)
        return self._engine(*inputs, **options)

    @torch.no_grad()
    def infer(self, *inputs: Any, **options: Any) -> Any:
        """Run the module's forward pass, without gradients."""
        self._drop(False)
        return self._engine(*inputs, **options)

    def _stepped(self) -> list[Tensor]:
        """Return the tensors that AdamW steps: the weights, or this rank's flat shares of them."""
        if self._sharded:
            return list(self._engine.optimizer.fp32_partitioned_groups_flat)
        return [
            weight for group in self._engine.optimizer.param_groups for weight in group["params"]
        ]

    def _drop(self, on: bool) -> None:
        for dropout in self._dropouts:
            dropout.train(on)

    def backward(self, loss: Tensor, *, counts: bool = True) -> None:
        """Accumulate the gradients of one microbatch's loss.

        The loss is divided by a count over the whole step, over all ranks. DeepSpeed takes the mean
        of the ranks' gradients where their sum is wanted: the loss is multiplied by the ranks.
        counts: False for a pass that is made only because other ranks still have one to make.
        """
        self._engine.backward(loss * ranks() if counts else loss * 0.0)

    def step(self, lr: float, *, head_lr: float | None = None) -> float:
        """Take one AdamW step at rate `lr`; return the gradients' global l2 norm.

        The norm is that before clipping.
        head_lr: the rate of the head; None where there is no head.
        """
        groups = self._engine.optimizer.param_groups
        for group, of_head in zip(groups, self._of_head, strict=True):
            group["lr"] = head_lr if of_head and head_lr is not None else lr
        if self._alone:
            _give_gradients(self.module)
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def release(self) -> None:
        """Free the gathered weights that forward passes kept.

        Called before weights are read or changed. Only under ZeRO 3: autocast has rounded them, and
        some may still be on their way between the ranks.
        """
        if self._sharded:
            self._engine.optimizer.empty_partition_cache()

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Yield each weight of the model with its name, whole.

        Under ZeRO 3 they are gathered in buckets, and all ranks take part.
        """
        self.release()
        if self._sharded:
            yield from gathered_weights(self.module.model.state_dict(keep_vars=True).items())
        else:
            yield from self.module.model.state_dict().items()

    def whole_weights(self) -> dict[str, Tensor] | None:
        """Return the weights to save, in rank 0's main memory.

        None where the module holds them itself.
        """
        if not self._sharded:
            return None
        return {name: value.cpu() for name, value in self.weights() if is_rank_zero()}

    def learning_weights(self) -> dict[str, Tensor]:
        """Return the model's weights that learn, whole, by name; all ranks take part."""
        self.release()
        named = ((n, p) for n, p in self.module.model.named_parameters() if p.requires_grad)
        return dict(gathered_weights(named) if self._sharded else named)

    def state(self) -> dict[str, Tensor]:
        """Return learning weights and optimizer state as named tensors, for a checkpoint.

        Frozen weights are left out, since they are an input's. What is this rank's alone is named
        `shard/...`.
        """
        optimizer = self._engine.optimizer
        if self._sharded:
            return zero3_checkpoint.state(optimizer)
        return replicated_checkpoint.state(self.module, optimizer)

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Load weights and optimizer state from the tensors that `state()` gave."""
        optimizer = self._engine.optimizer
        if self._sharded:
            zero3_checkpoint.load_state(optimizer, tensors)
        else:
            replicated_checkpoint.load_state(self.module, optimizer, tensors)

    def layout(self) -> Layout:
        """Return where the weights are in the tensors that `state()` gives."""
        optimizer = self._engine.optimizer
        if self._sharded:
            return zero3_checkpoint.layout(self.module, optimizer)
        return replicated_checkpoint.layout(self.module, optimizer)


def _optimizer(groups: list[ParameterGroup]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [{"params": group.weights, "weight_decay": group.weight_decay} for group in groups],
        lr=0.0,
        betas=ADAM_BETAS,
        eps=ADAM_EPS,
        fused=True,
    )


def _keep_norm(engine: Any, module: nn.Module, max_norm: float) -> None:
    """Let DeepSpeed remember the gradient norm, which it clips by but forgets without ZeRO."""
    from deepspeed.runtime.utils import clip_grad_norm_

    def clip_and_keep_norm() -> None:
        norm = clip_grad_norm_(module.parameters(), max_norm=max_norm or float("inf"))
        engine._global_grad_norm = float(norm)

    engine.clip_fp32_gradients = clip_and_keep_norm


def _give_gradients(module: nn.Module) -> None:
    """Give a gradient of 0 to weights that no pass used, as DeepSpeed does where it adds up ranks.

    AdamW then counts the step for them too, and lets them decay.
    """
    for parameter in module.parameters():
        if parameter.requires_grad and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def divide(
    module: nn.Module, config: dict, types: Mapping[nn.Parameter, torch.dtype] | None = None
) -> None:
    """Divide the weights among the ranks (ZeRO 3), one after the other.

    A rank holds one whole weight at a time, besides its share.
    types: the number types in which they are kept; None: float32.
    """
    kinds = types or {}
    from deepspeed.runtime.zero import Init

    weights: list[Any] = list(module.parameters())  # with DeepSpeed's methods once divided
    first, *others = weights
    first.data = first.data.to(kinds.get(first, torch.float32))
    Init(module=nn.ParameterList([first]), config_dict_or_path=config)
    for weight in others:
        weight.data = weight.data.to(kinds.get(weight, torch.float32))
        first.convert_to_zero_parameters(param_list=[weight])


def shared_out(module: nn.Module, types: Mapping[nn.Parameter, torch.dtype]) -> nn.Module:
    """Return a model that does not learn, with its weights divided among the ranks (ZeRO 3).

    The ranks gather them layer by layer: every rank makes the same passes in the same order.
    types: the weights' number types.
    """
    import deepspeed

    init_distributed()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "steps_per_print": 1_000_000_000,
    }
    divide(module, config, types)
    engine, *_ = deepspeed.initialize(model=module.eval(), config=config)
    return engine


def is_sharded(module: nn.Module) -> bool:
    """Return True if ZeRO 3 divides the module's weights among the ranks.

    Each use of a weight then waits for all ranks.
    """
    return any(hasattr(parameter, "ds_id") for parameter in module.parameters())


def _checkpoint_activations(module: WrappedModel, zero_stage: int) -> None:
    if module.router is not None and zero_stage == 3:
        raise BadInput(
            "activation_checkpointing at zero_stage 3 gives the routers of a mixture of experts no"
            f" gradient from their own loss (coefficient {module.router.coefficient:g}); switch"
            " activation_checkpointing off, or set zero_stage to 2, or router_aux_loss_coef to 0"
        )
    # At ZeRO 3 the weights are empty when the backward pass compares recomputed with saved tensors;
    # a reentrant pass compares nothing.
    reentrant = zero_stage == 3
    module.model.gradient_checkpointing_enable({"use_reentrant": reentrant})
    embeddings = module.model.get_input_embeddings()
    if reentrant and not any(weight.requires_grad for weight in embeddings.parameters()):
        # it has gradients only where its input has one, which frozen embeddings do not give
        module.model.enable_input_require_grads()
    # transformers checkpoints in training mode only; models are loaded without dropout
    module.train()


def write_config(engine: Engine, path: Path) -> None:
    """Write the engine's configuration as JSON, on rank 0."""
    if is_rank_zero():
        path.write_text(json.dumps(engine.config, indent=2), encoding="utf-8")
