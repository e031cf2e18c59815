"""The sampler that the recipe names, and never another in its place."""

from importlib.util import find_spec
from pathlib import Path

from rlhf_core.config import Sampling
from rlhf_core.errors import BadInput
from rlhf_core.sampling.base import Sampler
from rlhf_core.sampling.engine_arguments import engine_arguments
from rlhf_core.sampling.transformers import TransformersSampler
from rlhf_core.sampling.vllm import VLLMSampler
from rlhf_core.sampling.vllm_server import VLLMServerSampler


def open_sampler(
    model: Path, sampling: Sampling, *, max_prompt_tokens: int, dtype: str, adapter_rank: int = 0
) -> Sampler:
    """Return the sampler of `sampling.engine` with the weights in `model`.

    adapter_rank: of the adapter that it will get by `sync_adapter`; 0: it will get weights. Raises
    BadInput when its library is not installed.
    """
    if sampling.engine == "transformers":
        return TransformersSampler(
            model, sampling, max_prompt_tokens=max_prompt_tokens, dtype=dtype
        )
    if find_spec("vllm") is None:
        raise BadInput(
            "sampling.engine is 'vllm', which is not installed here; install it, or set"
            " ppo.sampling.engine and evaluate.sampling.engine to 'transformers' (slower, the same"
            " statistics)"
        )
    kind = VLLMServerSampler if sampling.own_devices else VLLMSampler
    length = max_prompt_tokens + sampling.max_new_tokens
    arguments = engine_arguments(
        model, sampling, length=length, dtype=dtype, adapter_rank=adapter_rank
    )
    return kind(model, sampling, arguments)
