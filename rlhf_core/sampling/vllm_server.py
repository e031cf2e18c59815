"""A sampler on devices of its own: vLLM's server, with vLLM's own transfer of the actor's weights.

Rank 0 starts it, and sends it requests and weights. The other ranks get the responses from rank 0,
and take part when weights are gathered.
"""

import contextlib
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rlhf_core.config import Sampling
from rlhf_core.errors import BadInput, StageFailed
from rlhf_core.modeling.models import tied_names
from rlhf_core.ranks import DEVICES, is_rank_zero, ranks
from rlhf_core.sampling.adapters import ADAPTER, AdapterFolders
from rlhf_core.sampling.base import Sample, Sampler
from rlhf_core.sampling.engine_arguments import as_flags
from rlhf_core.sampling.queued_requests import QueuedRequests
from rlhf_core.sampling.server_process import ServerProcess
from rlhf_core.sampling.stops import stop_ids_of
from rlhf_core.sampling.vllm import QUIET, require_heads

ADAPTER_ROUTES = {"VLLM_ALLOW_RUNTIME_LORA_UPDATING": "1"}
TRANSFER = {  # the server's arguments for the weight transfer, by backend
    "nccl": ["--weight-transfer-config", '{"backend": "nccl"}'],
    "gloo": [
        "--weight-transfer-config",
        '{"backend": "gloo"}',
        "--worker-extension-cls",
        "rlhf_core.sampling.weight_transfer.TransferRegistration",
    ],
}


class VLLMServerSampler(Sampler):
    """A vLLM server as a child process of rank 0."""

    def __init__(self, model: Path, sampling: Sampling, arguments: dict[str, Any]):
        """Start the server. arguments: see `engine_arguments`."""
        require_heads(model, sampling.tensor_parallel)
        self._sampling, self.ranks_each = sampling, ranks()
        self._stops = stop_ids_of(model)
        self._server = None
        self._adapter = ""
        self._adapters = AdapterFolders() if arguments.get("enable_lora") else None
        if is_rank_zero():
            self._server = ServerProcess(
                [*_flags(arguments, sampling), *TRANSFER[_backend()]],
                _devices(sampling.own_devices) | (ADAPTER_ROUTES if self._adapters else {}),
            )
        for key, value in QUIET.items():
            os.environ.setdefault(key, value)
        from rlhf_core.sampling import weight_transfer

        self._weights = weight_transfer.Weights(tied_names(model))
        with self._ended_on_error("the meeting with its workers"):
            if self._server is not None:
                self._server.wait_until_ready()
            self._transfer = weight_transfer.open_transfer(
                self._weights, self._server, workers=sampling.own_devices
            )

    @property
    def model(self) -> None:
        """None: the model is in another process."""
        return None

    def generate(self, prompts: list[list[int]], *, seeds: list[int], eos_id: int) -> list[Sample]:
        """Return one response per prompt: a function of weights, prompt and its own seed.

        Rank 0 gets them, the others none.
        """
        if self._server is None:
            return []
        stops = self._stops | {eos_id}
        same = {
            "temperature": self._sampling.temperature,
            "max_tokens": self._sampling.max_new_tokens,
            "logprobs": 0,
            "stop_token_ids": sorted(stops),
            "detokenize": False,
        }
        which = {"model": self._adapter} if self._adapter else {}
        asked = [
            which
            | {"token_ids": prompt, "sampling_params": same | {"seed": seed}, "priority": place}
            for place, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
        ]
        answers = self._server.post_all("/inference/v1/generate", asked)
        return [_sample(answer["choices"][0], stops) for answer in answers]

    def sleep(self) -> None:
        """Do nothing: its devices are its own."""

    def sync(self, weights: Iterable[tuple[str, Tensor]]) -> float:
        """Replace the server's weights; return the seconds.

        weights: named tensors of the model's checkpoint format, which may be iterated more than
        once. Raises StageFailed when the server does not take them.
        """
        started = time.monotonic()
        self._weights.tensors = weights
        with self._ended_on_error("the transfer of new weights"):
            if self._server is not None:
                self._server.post("/pause?mode=wait")  # it forgets its prefix cache too
            self._transfer.send_weights()
            if self._server is not None:
                self._server.post("/resume")
        return time.monotonic() - started

    def sync_adapter(self, save: Callable[[Path], None]) -> float:
        """Replace the adapter by the one that `save` writes into a folder; return the seconds.

        Raises StageFailed when the server does not take it.
        """
        assert self._adapters is not None  # it was opened for an adapter
        started = time.monotonic()
        if self._server is not None:
            before = self._adapter
            with self._adapters.written(save) as (number, folder):
                self._adapter = f"{ADAPTER}-{number}"
                asked = {"lora_name": self._adapter, "lora_path": str(folder)}
                self._server.post("/v1/load_lora_adapter", asked)
            if before:
                self._server.post("/v1/unload_lora_adapter", {"lora_name": before})
        return time.monotonic() - started

    @contextlib.contextmanager
    def _ended_on_error(self, doing: str) -> Iterator[None]:
        """End the server when the block fails.

        Else a request may wait in it for ever, and this process for the request's thread.
        """
        try:
            yield
        except RuntimeError as error:  # what gloo and NCCL raise when the other side is gone
            if self._server is None:
                raise
            raise self._server.failure(doing) from error
        except BaseException:
            if self._server is not None:
                self._server.close()
            raise

    def close(self) -> None:
        """End the server."""
        if self._server is not None:
            self._server.close()
            self._transfer.shutdown()


def _flags(arguments: dict[str, Any], sampling: Sampling) -> list[str]:
    """Return the arguments of the same engine as VLLMSampler's."""
    return [
        *as_flags(arguments),
        "--data-parallel-size",
        str(sampling.own_devices // sampling.tensor_parallel),
        "--tokens-only",
        "--disable-uvicorn-access-log",
        "--middleware",
        f"{QueuedRequests.__module__}.{QueuedRequests.__name__}",
        "--scheduling-policy",
        "priority",  # the order of the prompts, not that of arrival
        "--uvicorn-log-level",
        "warning",
    ]


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"


def _devices(count: int) -> dict[str, str]:
    """Return the environment that shows the server its devices and no others."""
    if not torch.cuda.is_available():
        return {}
    named = os.environ.get(DEVICES) or os.environ.get("CUDA_VISIBLE_DEVICES")
    visible = named.split(",") if named else list(map(str, range(torch.cuda.device_count())))
    return {"CUDA_VISIBLE_DEVICES": devices_left(visible, ranks(), count)}


def devices_left(visible: list[str], training: int, count: int) -> str:
    """Return the last `count` devices, comma-separated.

    Raises BadInput when the `training` ranks leave fewer.
    """
    if training + count > len(visible):
        raise BadInput(
            f"ppo.sampling.own_devices {count} beside {training} training ranks need"
            f" {training + count} GPUs, this machine shows {len(visible)}; lower one of them, or"
            " set ppo.sampling.own_devices to 0"
        )
    return ",".join(visible[-count:])


def _sample(choice: dict, stops: frozenset[int]) -> Sample:
    tokens, entries = choice["token_ids"], choice["logprobs"]["content"]
    if [entry["token_id"] for entry in entries] != tokens:
        raise StageFailed(
            f"the sampler's server sent log-probabilities of other tokens than the {len(tokens)} of"
            " its response"
        )
    return Sample(tokens, [entry["logprob"] for entry in entries], tokens[-1] in stops)
