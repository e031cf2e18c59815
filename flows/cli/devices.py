"""The devices that `rlhf plan` plans for: those asked for, or those of this machine."""

import os
import re
from dataclasses import dataclass
from typing import Literal

from rlhf_core.errors import ConfigError
from rlhf_core.stage_catalogue import SAMPLING

DEFAULT_MEMORY = "80GiB"
SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([KMGT])(I?)B\s*")
POWERS = {"K": 1, "M": 2, "G": 3, "T": 4}
GPU_OVERHEAD = 2 * 2**30  # CUDA context, NCCL, cuBLAS, rounding: infra/docs/results/memory.md
CPU_OVERHEAD = int(0.7 * 2**30)  # Python with torch, transformers and DeepSpeed imported, measured
CPU_OVERHEAD_VLLM = int(0.9 * 2**30)  # with vLLM as well, measured


@dataclass(frozen=True)
class Devices:
    """Equal devices that share the work. memory: bytes of one device."""

    count: int
    kind: Literal["gpu", "cpu"]
    memory: int

    def overhead(self, stage: str) -> int:
        """Return the bytes of one device that a stage's process takes besides its tensors."""
        if self.kind == "gpu":
            return GPU_OVERHEAD
        return CPU_OVERHEAD_VLLM if stage in SAMPLING else CPU_OVERHEAD


def parse_memory(text: str) -> int:
    """Return the bytes in '80GiB', '80 GB' or '512MiB'. Raises ConfigError for anything else."""
    found = SIZE.fullmatch(text.upper())
    size = 0
    if found:
        size = int(float(found[1]) * (1024 if found[3] else 1000) ** POWERS[found[2]])
    if size <= 0:
        raise ConfigError(
            f"--gpu-memory {text!r} is not a size; expected a positive number with its unit, "
            "e.g. 80GiB (2^30 bytes each) or 80GB (10^9)."
        )
    return size


def find_devices(gpus: int | None, gpu_memory: str | None) -> Devices:
    """Return the devices asked for, else those of this machine. Raises ConfigError."""
    if gpus is not None and gpus < 1:
        raise ConfigError(
            f"--gpus {gpus}: expected 1 or more. Leave it out to plan for this machine."
        )
    if gpus is not None or gpu_memory is not None:
        return Devices(gpus or 1, "gpu", parse_memory(gpu_memory or DEFAULT_MEMORY))
    from tasks.execution.launcher import has_cuda

    if has_cuda():
        from tasks.execution.stage_calls import ask

        count, memory = ask("rlhf_core.interpreter.installed:gpus")
        return Devices(count, "gpu", memory)
    from flows.platform.doctor import memory_limit

    installed = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Devices(1, "cpu", min(installed, memory_limit() or installed))
