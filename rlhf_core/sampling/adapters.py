"""Adapters that vLLM gets alone: which it takes, and the folders in which it finds them."""

import json
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rlhf_core.errors import BadInput

ADAPTER = "actor"  # its name in vLLM, with the number of the sync
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that vLLM has room for


class AdapterFolders:
    """The adapters of one sampler, numbered from 1.

    Each has a number and a name of its own: vLLM would read an adapter that is replaced under its
    old name anew in every step.
    """

    def __init__(self) -> None:
        self.number = 0

    @contextmanager
    def written(self, save: Callable[[Path], None]) -> Iterator[tuple[int, Path]]:
        """Give the next number and a folder that `save` has filled; it goes with the block."""
        with tempfile.TemporaryDirectory(prefix="rlhf-adapter-") as folder:
            save(Path(folder))
            self.number += 1
            yield self.number, Path(folder)


def room_for(rank: int) -> int:
    """Return the rank that vLLM makes room for. Raises BadInput for a larger one than it has."""
    if rank > RANKS[-1]:
        raise BadInput(
            f"ppo.sampling.adapter_sync with ppo.lora.rank {rank}: vLLM takes adapters of rank"
            f" {RANKS[-1]} at most; lower the rank, or set adapter_sync to false"
        )
    return next(size for size in RANKS if size >= rank)


def require_adapters(model: Path, rank: int) -> None:
    """Raise BadInput when vLLM takes no adapters for the model's class, or none of the rank.

    Imports vLLM's class, which takes seconds.
    """
    from vllm.model_executor.models import ModelRegistry, supports_lora

    room_for(rank)
    for name in json.loads((model / "config.json").read_text(encoding="utf-8"))["architectures"]:
        known = ModelRegistry.models.get(name)
        if known is not None and not supports_lora(known.load_model_cls()):
            raise BadInput(
                f"ppo.sampling.adapter_sync with {model}: vLLM takes no adapters for a {name};"
                " set adapter_sync to false, which gives it merged weights"
            )
