"""vLLM's weight transfer, from the actor into vLLM's server.

vLLM's NCCL engine, or on machines without NCCL the same over gloo.
Both sides import this: the trainer, and vLLM's workers through `--worker-extension-cls`. Importing
it registers gloo.
"""

import socket
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar, Self

import torch
from torch import Tensor
from vllm.distributed.utils import stateless_init_torch_distributed_process_group
from vllm.distributed.weight_transfer.base import (
    ParamMeta,
    TrainerWeightTransferEngine,
    VLLMWeightSyncClient,
    WeightSource,
)
from vllm.distributed.weight_transfer.clients import HTTPVLLMWeightSyncClient
from vllm.distributed.weight_transfer.factory import (
    WeightTransferEngineFactory,
    WeightTransferTrainerFactory,
)
from vllm.distributed.weight_transfer.nccl_common import (
    NCCLWeightTransferInitInfo,
    worker_init_payload,
)
from vllm.distributed.weight_transfer.nccl_engine import (
    NCCLTrainerInitInfo,
    NCCLTrainerWeightTransferEngine,
    NCCLWeightTransferEngine,
    NCCLWeightTransferUpdateInfo,
)

from rlhf_core.ranks import rank
from rlhf_core.sampling.output_layer import pack_output_layers
from rlhf_core.sampling.server_process import ServerProcess

GLOO = "gloo"
TIMEOUT = timedelta(minutes=10)  # how long one side waits for the other's next tensor


def open_transfer(
    weights: "Weights", server: ServerProcess | None, *, workers: int
) -> TrainerWeightTransferEngine:
    """Connect to all of the server's workers.

    Every rank calls this, and later `send_weights`; rank 0 has the server.
    """
    kind = NCCLTrainerInitInfo if torch.cuda.is_available() else GlooTrainerInitInfo
    about = kind(
        master_address="127.0.0.1", master_port=_free_port(), world_size=1 + workers, rank=rank()
    )
    return WeightTransferTrainerFactory.trainer_init(about, client=_Client(server), source=weights)


class Weights(WeightSource):
    """The named tensors of the next transfer, which may be iterated again and again.

    tied: the names of tied weights. Such a weight is sent once, as it is in the saved file: vLLM's
    Gemma and BLOOM refuse the other name.
    """

    def __init__(self, tied: frozenset[str] = frozenset()) -> None:
        self.tensors: Iterable[tuple[str, Tensor]] = ()
        self._tied = tied
        self._metadata: list[ParamMeta] = []

    def metadata(self) -> list[ParamMeta]:
        """Return names, types and shapes, which stay the same.

        They are learnt from one more pass before the first transfer.
        """
        self._metadata = self._metadata or [
            ParamMeta(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in self
        ]
        return self._metadata

    def __iter__(self) -> Iterator[tuple[str, Tensor]]:
        return ((name, tensor.detach()) for name, tensor in self.tensors if name not in self._tied)


class _Client(HTTPVLLMWeightSyncClient):
    """vLLM's client, over the server's socket instead of a port."""

    def __init__(self, server: ServerProcess | None):
        self._server = server

    def _post(self, path: str, json: dict | None = None) -> None:
        assert self._server is not None  # rank 0 alone sends
        self._server.post(f"/{path}", json)


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Gloo:
    """A gloo group of the trainer, number 0, and the server's workers."""

    def __init__(self, address: str, port: int, *, place: int, size: int):
        self._group = stateless_init_torch_distributed_process_group(
            address, port, place, size, GLOO, timeout=TIMEOUT
        )

    def broadcast(self, tensor: Tensor) -> None:
        """Copy the trainer's values into every member's tensor."""
        self._group.broadcast(tensor, 0).wait()

    def destroy(self) -> None:
        """Leave the group."""
        self._group.shutdown()


@dataclass
class GlooTrainerInitInfo(NCCLTrainerInitInfo):
    """The address at which trainer and workers connect, and their number."""

    backend: ClassVar[str] = GLOO


class GlooWeightTransferEngine(NCCLWeightTransferEngine):
    """A worker's side: receives one tensor after the other and loads it."""

    def init_transfer_engine(self, init_info: NCCLWeightTransferInitInfo) -> None:
        """Join the trainer's group; the place counts over all replicas."""
        parallel = self.parallel_config
        place = (
            init_info.rank_offset
            + parallel.data_parallel_index * parallel.world_size
            + parallel.rank
        )
        self.model_update_group = Gloo(
            init_info.master_address, init_info.master_port, place=place, size=init_info.world_size
        )

    def update_weights(self, update_info: dict) -> None:
        """Receive what `update_info` names.

        There is no device to wait for: the broadcasts are over when they return.
        """
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: NCCLWeightTransferUpdateInfo) -> None:
        """Receive and load the tensors in the order of `update_info`."""
        for name, dtype, shape in zip(
            update_info.names, update_info.dtype_names, update_info.shapes, strict=True
        ):
            weight = torch.empty(shape, dtype=getattr(torch, dtype))
            self.model_update_group.broadcast(weight)
            self.model.load_weights([(name, weight)])

    def finish_weight_update(self) -> None:
        """Finish vLLM's reloading, and pack an output layer that is tied to the embeddings."""
        super().finish_weight_update()
        pack_output_layers(self.model)


class GlooTrainerWeightTransferEngine(NCCLTrainerWeightTransferEngine):
    """The trainer's side: rank 0 sends, all ranks take part where weights are gathered."""

    init_info_cls = GlooTrainerInitInfo

    @classmethod
    def trainer_init(
        cls,
        init_info: GlooTrainerInitInfo,
        *,
        client: VLLMWeightSyncClient,
        source: WeightSource | None = None,
    ) -> Self:
        """Connect to the workers, which wait in the call that asks them to connect."""
        engine = cls(client=client, source=source, is_sender=init_info.is_sender, packed=False)
        if not engine.is_sender:
            return engine
        address, port, size = init_info.master_address, init_info.master_port, init_info.world_size
        asked = worker_init_payload(
            NCCLWeightTransferInitInfo(
                master_address=address, master_port=port, rank_offset=1, world_size=size
            )
        )
        with ThreadPoolExecutor(max_workers=1) as pool:
            answer = pool.submit(client.init_weight_transfer_engine, asked)
            engine.model_update_group = Gloo(address, port, place=0, size=size)
            answer.result()
        return engine

    def _broadcast(self, source: WeightSource, meta: list) -> None:
        if not self.is_sender:
            for _ in source:
                pass
            return
        for _, tensor in self._checked_iter(source, meta):
            self.model_update_group.broadcast(tensor.contiguous())


class TransferRegistration:
    """An empty worker extension: vLLM imports this module to find it, which registers gloo."""


WeightTransferEngineFactory.register_engine(GLOO, GlooWeightTransferEngine)
WeightTransferTrainerFactory.register_engine(GLOO, GlooTrainerWeightTransferEngine)
