"""vLLM in this process: generation, with weights replaced in place.

With several ranks each has a replica that answers its share of the prompts; with tensor parallelism
neighbouring ranks have one replica together and answer the same prompts.
"""

import gc
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rlhf_core.config import Sampling
from rlhf_core.errors import BadInput
from rlhf_core.modeling.models import tied_names
from rlhf_core.ranks import ranks
from rlhf_core.sampling.adapters import ADAPTER, AdapterFolders
from rlhf_core.sampling.base import Sample, Sampler
from rlhf_core.sampling.output_layer import pack_output_layers
from rlhf_core.sampling.shared_blocks import unlink_own_blocks
from rlhf_core.sampling.stops import stop_ids_of

if TYPE_CHECKING:
    from vllm.lora.request import LoRARequest

QUIET = {
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
}


class VLLMSampler(Sampler):
    """A vLLM engine in this process."""

    def __init__(self, model: Path, sampling: Sampling, arguments: dict[str, Any]):
        """Start the engine. arguments: see `engine_arguments`."""
        require_heads(model, sampling.tensor_parallel)
        _require_devices(sampling.tensor_parallel)
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        from vllm import LLM

        self._sampling = sampling
        self._stops = stop_ids_of(model)
        self._tied = tied_names(model)
        self.ranks_each = sampling.tensor_parallel if ranks() > 1 else 1
        self._sleeps, self._asleep = sampling.sleep and torch.cuda.is_available(), False
        self._adapters = AdapterFolders() if arguments.get("enable_lora") else None
        self._adapter: LoRARequest | None = None
        self._llm = LLM(
            **arguments,
            trust_remote_code=False,
            # the ranks are its workers
            distributed_executor_backend="external_launcher" if ranks() > 1 else None,
            enable_sleep_mode=self._sleeps,
        )
        unlink_own_blocks()

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        """Return one response per prompt: a function of weights, prompt and its own seed."""
        from vllm import SamplingParams

        stops = self._stops | {eos_id}
        parameters = [
            SamplingParams(
                temperature=self._sampling.temperature,
                max_tokens=self._sampling.max_new_tokens,
                seed=seed,
                logprobs=0,
                stop_token_ids=sorted(stops),
                detokenize=False,
            )
            for seed in seeds
        ]
        inputs = [{"prompt_token_ids": prompt} for prompt in prompts]
        outputs = self._llm.generate(inputs, parameters, use_tqdm=False, lora_request=self._adapter)
        return [_sample(output.outputs[0], stops) for output in outputs]

    def sleep(self) -> None:
        """Free weights and key-value cache on the device until the next `sync`.

        Does nothing unless so configured.
        """
        if self._sleeps and not self._asleep:
            # 2: the weights are not kept in main memory; the next ones are other weights. 1: the
            # base model of an adapter is kept there
            self._llm.sleep(level=1 if self._adapters else 2)
            self._asleep = True

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> float:
        """Replace the weights in place; return the seconds.

        weights: named tensors of the model's checkpoint format.
        """
        started = time.monotonic()
        self._wake_up()
        # a tied weight comes once, as in the saved file: Gemma and BLOOM refuse the other name
        self._runner.reload_weights(
            weights_iterator=(
                (name, tensor.detach()) for name, tensor in weights if name not in self._tied
            )
        )
        if self._tied:
            pack_output_layers(self.model)
        self._llm.reset_prefix_cache()
        return time.monotonic() - started

    def sync_adapter(self, save: Callable[[Path], None]) -> float:
        """Replace the adapter by the one that `save` writes into a folder; return the seconds.

        Raises BadInput for one that vLLM does not take.
        """
        from vllm.lora.request import LoRARequest

        assert self._adapters is not None  # it was opened for an adapter
        started = time.monotonic()
        self._wake_up()
        with self._adapters.written(save) as (number, folder):
            self._adapter = LoRARequest(f"{ADAPTER}-{number}", number, str(folder))
            try:
                self._llm.llm_engine.add_lora(self._adapter)
            except ValueError as error:
                raise BadInput(
                    f"vLLM does not take the adapter: {error}; set ppo.lora.target_modules to maps"
                    " that it knows, or ppo.sampling.adapter_sync to false"
                ) from None
        self._llm.reset_prefix_cache()
        return time.monotonic() - started

    def _wake_up(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    @property
    def model(self) -> nn.Module:
        """The model that samples."""
        return self._runner.get_model()

    @property
    def _runner(self) -> Any:
        return self._llm.llm_engine.model_executor.driver_worker.worker.model_runner

    def close(self) -> None:
        """Give the memory back."""
        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()


def require_heads(model: Path, size: int) -> None:
    """Raise BadInput when tensor parallelism of this size cannot divide the model's heads."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    heads = config.get("num_attention_heads")
    if heads and heads % size:
        raise BadInput(
            f"sampling.tensor_parallel {size} does not divide the {heads} attention heads of"
            f" {model}; set it to a divisor of the heads"
        )


def _require_devices(size: int) -> None:
    """Raise BadInput when this machine has fewer devices."""
    devices = torch.cuda.device_count() if torch.cuda.is_available() else os.cpu_count() or 1
    if size > devices:
        kind = "GPUs" if torch.cuda.is_available() else "CPU cores"
        raise BadInput(
            f"sampling.tensor_parallel {size} needs as many devices, this machine has {devices}"
            f" {kind}; lower it"
        )


def _sample(output: Any, stops: frozenset[int]) -> Sample:
    tokens = list(output.token_ids)
    logprobs = [entry[token].logprob for token, entry in zip(tokens, output.logprobs, strict=True)]
    return Sample(tokens, logprobs, tokens[-1] in stops)
