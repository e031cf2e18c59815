"""The arguments of a vLLM engine, in this process or as a server."""

from pathlib import Path
from typing import Any

import torch

from rlhf_core.config import Sampling
from rlhf_core.sampling.adapters import room_for


def engine_arguments(
    model: Path, sampling: Sampling, *, length: int, dtype: str, adapter_rank: int = 0
) -> dict[str, Any]:
    """Return the arguments of `vllm.LLM`, the same for every place where vLLM runs.

    length: the largest number of tokens of prompt and reply together. adapter_rank: of the adapter
    that the engine will get; 0: none. Raises BadInput where vLLM has no room for the rank. New
    weights are copied into the tensors of the old ones, so that CUDA graphs, which hold addresses,
    stay valid.
    """
    cuda = torch.cuda.is_available()
    return {
        "model": str(model),
        "dtype": dtype,
        "max_model_len": length,
        "kv_cache_memory_bytes": sampling.kv_cache_mib << 20,
        "enforce_eager": sampling.runs_eager(cuda=cuda),
        # a prompt that is read in two steps takes a seeded draw back, which no CPU generator can
        "enable_chunked_prefill": cuda,
        # the replies of a group share their prompt; each sync resets the cache
        "enable_prefix_caching": True,
        # the model's own would change temperature and penalties unseen
        "generation_config": "vllm",
        "logprobs_mode": "processed_logprobs",  # of the distribution that was sampled from
        "seed": 0,
        "tensor_parallel_size": sampling.tensor_parallel,
    } | (_with_adapter(adapter_rank) if adapter_rank else {})


def _with_adapter(rank: int) -> dict[str, Any]:
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room_for(rank)}


def as_flags(arguments: dict[str, Any]) -> list[str]:
    """Return the same arguments as vLLM's server takes them on its command line."""
    flags = []
    for name, value in arguments.items():
        flag = name.replace("_", "-")
        if isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--no-{flag}")
        else:
            flags += [f"--{flag}", str(value)]
    return flags
