"""The layout of a stage on devices: everything that a user may change to make it fit."""

from dataclasses import dataclass
from typing import Literal

from rlhf_core.config import LOGITS_MIB

GIB = 2**30


@dataclass(frozen=True)
class Strategy:
    """Data parallelism over `devices`, and what each of them holds.

    The first four fields are the recipe's.
    """

    micro_batch_tokens: int
    # number type of matrix products; weights stay float32 unless half_weights
    dtype: Literal["float32", "bfloat16"] = "float32"
    zero_stage: int = 0
    kv_cache_mib: int = 0
    logits_mib: int = LOGITS_MIB  # of one float32 tensor, above which logits come by chunks
    devices: int = 1
    # weights and gradients in bfloat16, float32 master weights with the optimizer
    half_weights: bool = False
    checkpointing: bool = False  # activations recomputed layer by layer
    # optimizer states in host memory; 'disk': its moments are there during the step alone
    offload_optimizer: bool | Literal["disk"] = False
    # of the matrices of models that do not learn; None: dtype
    frozen_dtype: Literal["float32", "bfloat16"] | None = None
    frozen: Literal["whole", "sharded", "offloaded"] = "whole"  # where models that do not learn are
    sampler_over: int = 1  # devices that share one copy of vLLM's weights (tensor parallelism)
    sampler_sleeps: bool = False  # vLLM releases its memory while the policy learns
    own_sampler: int = 0  # number of devices beside these that vLLM has to itself

    @property
    def autocast(self) -> bool:
        """True if matrix products cast float32 weights to bfloat16."""
        return self.dtype == "bfloat16" and not self.half_weights

    @property
    def frozen_bytes(self) -> int:
        """Bytes of one weight in the matrices of a model that does not learn."""
        return 2 if (self.frozen_dtype or self.dtype) == "bfloat16" else 4

    @property
    def weight_bytes(self) -> int:
        """Bytes of one trained weight, and of its gradient."""
        return 2 if self.half_weights else 4

    @property
    def compute_bytes(self) -> int:
        """Bytes of one number in a matrix product."""
        return 2 if self.half_weights or self.dtype == "bfloat16" else 4


@dataclass(frozen=True)
class Hardware:
    """The devices. overhead: bytes that no model accounts for.

    The basis of the overhead: infra/docs/results/memory.md.
    """

    kind: Literal["gpu", "cpu"]
    capacity: int  # bytes of one device
    overhead: int
