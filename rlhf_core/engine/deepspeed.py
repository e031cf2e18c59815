"""DeepSpeed, in one file: what steps an optimizer."""

import contextlib
import fcntl
import json
import os
import socket
import sys
import time
import zlib
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import torch
from torch import Tensor, nn

from rlhf_core.config import Training
from rlhf_core.engine import zero3_checkpoint
from rlhf_core.ranks import leads, ranks

ADAM_BETAS = (0.9, 0.95)
ADAM_EPS = 1e-8
PATIENCE = timedelta(
    minutes=30
)  # that a rank waits for another: one may still generate, or compile its first kernels


def add_scripts_to_path() -> None:
    """Let child processes find this environment's programs: the extension builder starts `ninja` by
    name.
    """
    scripts = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if scripts not in path.split(os.pathsep):
        os.environ["PATH"] = os.pathsep.join(filter(None, [scripts, path]))


def keep_extensions_here() -> Path | None:
    """Keep compiled ops in this environment, and say where: in the home cache two environments undo
    each other's build.

    So do two paths of one environment (a link to it), since the build records where its headers
    lie: each path has its own. None: the environment is read-only, or TORCH_EXTENSIONS_DIR is set
    already.
    """
    if not os.access(sys.prefix, os.W_OK):
        return None
    own = Path(sys.prefix) / "var" / f"torch_extensions-{zlib.crc32(sys.prefix.encode()):08x}"
    return own if os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(own)) == str(own) else None


def load_ops() -> None:
    """Load DeepSpeed's communication op, compiled at its first use on this machine.

    torch waits without end for the lock file of a build that was killed. Builds in this
    environment's own folder therefore queue here first: a lock file found at the head of the queue
    is a dead one.
    """
    from deepspeed.comm.torch import build_shm_op

    with contextlib.ExitStack() as stack:
        if folder := keep_extensions_here():
            folder.mkdir(parents=True, exist_ok=True)
            fcntl.flock(stack.enter_context((folder / ".queue").open("w")), fcntl.LOCK_EX)
            for dead in folder.glob("*/lock"):
                dead.unlink(missing_ok=True)
        build_shm_op()


def init_distributed() -> None:
    """One process group for this process, over gloo on the CPU; a no-op when there is one."""
    import deepspeed

    if torch.distributed.is_initialized():
        return
    add_scripts_to_path()
    load_ops()
    alone = {
        "RANK": "0",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "1",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(_free_port()),
    }
    missing = {name: value for name, value in alone.items() if name not in os.environ}
    os.environ.update(missing)
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(
        dist_backend=backend, auto_mpi_discovery=False, verbose=False, timeout=PATIENCE
    )
    if "MASTER_PORT" in missing:  # taken now: a child process that inherited it could not listen
        del os.environ["MASTER_PORT"]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def build_ops() -> float:
    """Compile what DeepSpeed compiles at its first start on this machine; returns the seconds it
    took.
    """
    started = time.monotonic()
    init_distributed()
    torch.distributed.destroy_process_group()
    return time.monotonic() - started


def deepspeed_config(training: Training, dtype: str) -> dict:
    """The DeepSpeed configuration of a stage; the optimizer itself is torch's AdamW."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        # microbatches differ in size: the loss carries its own denominator
        "managed_gradient_accumulation": False,
        "gradient_clipping": training.max_grad_norm,
        "zero_optimization": {"stage": training.zero_stage} | _offload(training),
        "torch_autocast": {"enabled": dtype == "bfloat16", "dtype": "bfloat16"},
        "zero_allow_untested_optimizer": True,
        # offloaded, it is torch's AdamW still: the same numbers
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1_000_000_000,
    }


def _offload(training: Training) -> dict:
    return (
        {"offload_optimizer": {"device": "cpu", "pin_memory": True}}
        if training.offload_optimizer
        else {}
    )


class Engine:
    """A module whose AdamW steps go through DeepSpeed; every rank makes the same calls in the same
    order.
    """

    def __init__(
        self, module: nn.Module, training: Training, *, dtype: str, head: nn.Module | None = None
    ):
        """head: a part of the module that has a learning rate of its own."""
        import deepspeed
        from deepspeed.runtime.utils import clip_grad_norm_

        init_distributed()
        if training.activation_checkpointing:
            _checkpoint_activations(module, training.zero_stage)
        own = set(head.parameters()) if head is not None else set()
        groups = [
            [p for p in module.parameters() if p.requires_grad and (p in own) == of_head]
            for of_head in (False, True)
        ]
        parameters = [{"params": group} for group in groups if group]
        optimizer = torch.optim.AdamW(
            parameters,
            lr=0.0,
            betas=ADAM_BETAS,
            eps=ADAM_EPS,
            weight_decay=training.weight_decay,
            fused=True,
        )
        self.config = deepspeed_config(training, dtype)
        self._sharded, self._partitions_optimizer = (
            training.zero_stage == 3,
            training.zero_stage > 0,
        )
        self._engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, config=self.config
        )
        self.module = module
        self._dropouts = [
            m for m in module.modules() if isinstance(m, nn.Dropout) and m.p > 0
        ]  # of adapters; models have none

        def clip_and_keep_norm() -> (
            None
        ):  # without ZeRO DeepSpeed clips but forgets the norm, which we log
            norm = clip_grad_norm_(
                module.parameters(), max_norm=training.max_grad_norm or float("inf")
            )
            self._engine._global_grad_norm = float(norm)

        self._engine.clip_fp32_gradients = clip_and_keep_norm

    def __call__(self, *inputs) -> Tensor:
        """The module's forward pass, with gradients."""
        self._drop(True)
        return self._engine(*inputs)

    @torch.no_grad()
    def infer(self, *inputs) -> Tensor:
        """The module's forward pass, without gradients."""
        self._drop(False)
        return self._engine(*inputs)

    def _drop(self, on: bool) -> None:
        for dropout in self._dropouts:
            dropout.train(on)

    def backward(self, loss: Tensor, *, counts: bool = True) -> None:
        """Accumulate gradients of one microbatch's loss, whose denominator counts the whole step
        over all ranks.

        DeepSpeed takes the mean of the ranks' gradients, which is to be their sum: the loss is
        multiplied by the ranks.
        counts: False for a pass that is made only because other ranks still have one to make.
        """
        self._engine.backward(loss * ranks() if counts else loss * 0.0)

    def step(self, lr: float, *, head_lr: float | None = None) -> float:
        """One AdamW step at rate `lr` on the accumulated gradients; returns their global l2 norm
        before clipping.

        head_lr: the rate of the head; None: there is none.
        """
        rates = [lr] if head_lr is None else [lr, head_lr]
        for group, rate in zip(self._engine.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        self._engine.step()
        return float(self._engine.get_global_grad_norm() or 0.0)

    def weights(self) -> Iterator[tuple[str, Tensor]]:
        """Each weight of the model by its name, whole; under ZeRO 3 gathered one at a time, all
        ranks going along.
        """
        if not self._sharded:
            yield from self.module.model.state_dict().items()
            return
        from deepspeed.runtime.zero import GatheredParameters

        for name, value in self.module.model.state_dict(keep_vars=True).items():
            with GatheredParameters([value] if isinstance(value, nn.Parameter) else []):
                whole = value.detach().clone()
            yield name, whole

    def whole_weights(self) -> dict[str, Tensor] | None:
        """The weights for saving, in rank 0's main memory; None where the module holds them itself."""
        if not self._sharded:
            return None
        return {name: value.cpu() for name, value in self.weights() if leads()}

    def state(self) -> dict[str, Tensor]:
        """Weights that learn and optimizer state as named tensors, for a checkpoint; frozen weights
        are an input's.

        What is this rank's alone is named `shard/...`.
        """
        if self._sharded:
            return zero3_checkpoint.state(self._engine.optimizer)
        frozen = self._frozen
        tensors = {
            f"weights/{name}": value
            for name, value in self.module.state_dict().items()
            if name not in frozen
        }
        prefix = "shard/optimizer" if self._partitions_optimizer else "optimizer"
        for index, entry in self._torch_optimizer.state_dict()["state"].items():
            tensors |= {f"{prefix}/{index}/{key}": value for key, value in entry.items()}
        return tensors

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take weights and optimizer state from `state()`'s tensors."""
        if self._sharded:
            zero3_checkpoint.load_state(self._engine.optimizer, tensors)
            return
        weights = {
            k.removeprefix("weights/"): v for k, v in tensors.items() if k.startswith("weights/")
        }
        missing, unexpected = self.module.load_state_dict(weights, strict=False)
        if unexpected or not self._frozen.issuperset(missing):
            raise RuntimeError(
                f"a checkpoint of other weights: {len(missing)} missing, {len(unexpected)} unknown"
                " names"
            )
        state: dict[int, dict[str, Tensor]] = {}
        for name, value in tensors.items():
            if not name.startswith("weights/"):
                *_, index, key = name.split("/")
                state.setdefault(int(index), {})[key] = value
        groups = self._torch_optimizer.state_dict()["param_groups"]
        self._torch_optimizer.load_state_dict({"state": state, "param_groups": groups})
        if hasattr(
            self._engine.optimizer, "refresh_fp32_params"
        ):  # ZeRO keeps its own copy of the weights
            self._engine.optimizer.refresh_fp32_params()

    @property
    def _frozen(self) -> set[str]:
        return {
            name
            for name, p in self.module.named_parameters(remove_duplicate=False)
            if not p.requires_grad
        }

    @property
    def _torch_optimizer(self) -> torch.optim.Optimizer:
        optimizer = self._engine.optimizer
        return getattr(optimizer, "optimizer", optimizer)


def shared_out(module: nn.Module) -> nn.Module:
    """A model that does not learn, its weights shared out among the ranks (ZeRO 3), who gather them
    layer by layer together.

    Every rank makes the same passes in the same order.
    """
    import deepspeed

    init_distributed()
    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "steps_per_print": 1_000_000_000,
    }
    engine, *_ = deepspeed.initialize(model=module.eval(), config=config)
    return engine


def _checkpoint_activations(module: nn.Module, zero_stage: int) -> None:
    # ZeRO 3 has emptied the weights when the backward pass compares recomputed with saved tensors;
    # reentrant compares nothing
    module.model.gradient_checkpointing_enable({"use_reentrant": zero_stage == 3})
    # transformers checkpoints in training mode only; models are loaded without dropout
    module.train()


def linear_schedule(step: int, steps: int, *, peak: float, warmup_ratio: float) -> float:
    """Learning rate of the 1-based `step`: linear warm-up to `peak`, then linear decay to 0 after
    the last step.
    """
    warmup = max(1, round(steps * warmup_ratio))
    if step <= warmup:
        return peak * step / warmup
    return peak * (steps + 1 - step) / (steps + 1 - warmup)


def write_config(engine: Engine, path: Path) -> None:
    """Write the DeepSpeed configuration as JSON; rank 0 does."""
    if leads():
        path.write_text(json.dumps(engine.config, indent=2))
