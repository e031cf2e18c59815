"""How a stage is laid out on devices: what a user may change to make it fit."""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30


@dataclass(frozen=True)
class Strategy:
    """Data parallelism over `devices`, and what each of them holds. The first four are what a
    recipe says.
    """

    micro_batch_tokens: int
    dtype: Literal["float32", "bfloat16"] = (
        "float32"  # of matrix products; weights stay float32 unless half_weights
    )
    zero_stage: int = 0
    kv_cache_mib: int = 0
    devices: int = 1
    half_weights: bool = (
        False  # weights and gradients in bfloat16, float32 master weights with the optimizer
    )
    checkpointing: bool = False  # activations recomputed layer by layer
    offload_optimizer: bool = False  # optimizer states in host memory
    half_frozen: bool = False  # models that do not learn in bfloat16
    frozen: Literal["whole", "sharded", "offloaded"] = "whole"  # where they are
    sampler_over: int = 1  # devices that share one copy of vLLM's weights (tensor parallelism)
    sampler_sleeps: bool = False  # vLLM gives its memory back while the policy learns
    own_sampler: int = 0  # vLLM on so many devices beside these

    @property
    def autocast(self) -> bool:
        """Whether matrix products cast float32 weights to bfloat16."""
        return self.dtype == "bfloat16" and not self.half_weights

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
    """What the devices have. overhead: bytes that no model accounts for; see infra/docs/results/memory.md
    for its basis.
    """

    kind: Literal["gpu", "cpu"]
    capacity: int  # bytes of one device
    overhead: int
