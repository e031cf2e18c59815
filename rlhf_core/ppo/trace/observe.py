"""Observe the code while it runs: the models' forward passes, and bytes between ranks."""

import contextlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.nn.modules.module import register_module_forward_hook

from rlhf_core.batching.batch import Batch
from rlhf_core.modeling.models import PolicyModel, ScalarModel
from rlhf_core.modeling.token_scores import TokenScores
from rlhf_core.modeling.trunk import Trunk
from rlhf_core.ppo.scoring import logits_and_values

# Process group method -> place of the tensors that a rank hands in, and how many times their size a
# rank sends among n ranks by the ring algorithm (mean over ranks), as in "Bandwidth optimal
# all-reduce" (Patarasuk and Yuan 2009).
_ALL_TO_ALL: tuple[int, Callable[[int], float]] = (1, lambda n: (n - 1) / n)
_GATHER_ALL: tuple[int, Callable[[int], float]] = (1, lambda n: n - 1)
_SCATTER_SUM: tuple[int, Callable[[int], float]] = (1, lambda n: (n - 1) / n)
_TO_ALL: tuple[int, Callable[[int], float]] = (0, lambda n: 2 * (n - 1) / n)
_KNOWN: dict[str, tuple[int, Callable[[int], float]]] = {
    "allreduce": _TO_ALL,
    "allreduce_coalesced": _TO_ALL,
    "broadcast": (0, lambda n: (n - 1) / n),
    "reduce": (0, lambda n: (n - 1) / n),
    "allgather": _GATHER_ALL,
    "allgather_coalesced": _GATHER_ALL,
    "allgather_into_tensor_coalesced": _GATHER_ALL,
    "_allgather_base": _GATHER_ALL,
    "all_gather_single": _GATHER_ALL,
    "all_gather_single_coalesced": _GATHER_ALL,
    "reduce_scatter": _SCATTER_SUM,
    "_reduce_scatter_base": _SCATTER_SUM,
    "reduce_scatter_tensor_coalesced": _SCATTER_SUM,
    "reduce_scatter_single": _SCATTER_SUM,
    "reduce_scatter_single_coalesced": _SCATTER_SUM,
    "alltoall": _ALL_TO_ALL,
    "alltoall_base": _ALL_TO_ALL,
    "all_to_all_single": _ALL_TO_ALL,
    "gather": (1, lambda n: (n - 1) / n),
    "scatter": (0, lambda n: (n - 1) / n),
    "send": (0, lambda n: 1.0),
}
COLLECTIVES = {
    name: known for name, known in _KNOWN.items() if hasattr(ProcessGroup, name)
}  # names differ between versions


@dataclass(frozen=True)
class Pass:
    """One forward pass. batch: the shape of the ids that went in, where it is one of ours."""

    model: str
    output: Tensor  # on the meta device: shape and type without data
    values: Tensor | None  # likewise, where a value head answered in the same pass
    batch: tuple[int, int, int] | None  # rows, length, response length


@dataclass
class Seen:
    """Passes and traffic seen so far; it grows while `observed` is open, and `taken` empties it."""

    passes: list[Pass] = field(default_factory=list)
    calls: Counter = field(default_factory=Counter)  # collectives by name
    sent: dict[str, float] = field(default_factory=lambda: defaultdict(float))  # bytes by name

    def taken(self) -> "Seen":
        """Return what was seen since the last call."""
        seen = Seen(self.passes, self.calls, self.sent)
        self.passes, self.calls, self.sent = [], Counter(), defaultdict(float)
        return seen


@contextlib.contextmanager
def observed(models: dict[str, nn.Module]) -> Iterator[Seen]:
    """Count forward passes and traffic while open.

    models: those that are known by name. Any other policy or scalar model is the reference or the
    reward model. A trunk that is called in a role counts as that role.
    """
    seen, names = Seen(), {id(model): name for name, model in models.items()}
    kinds: dict[type, str] = {PolicyModel: "reference", ScalarModel: "reward"}

    def hook(module: nn.Module, arguments: tuple, output: Any) -> None:
        name = names.get(id(module)) or kinds.get(type(module))
        if isinstance(module, Trunk) and len(arguments) > 1:
            name = arguments[1]
        if hasattr(output, "last_hidden_state"):  # transformers' backbone as the sampler
            output = output.last_hidden_state.flatten(0, 1)
        if not name:
            return
        if isinstance(output, TokenScores):
            given, values = output.logprobs_BR, output.values_BR1
        else:
            given, values = logits_and_values(output)
        if isinstance(given, Tensor):
            meta = None if values is None else _shape_of(values)
            seen.passes.append(Pass(name, _shape_of(given), meta, _batch_shape(arguments)))

    handle = register_module_forward_hook(hook)
    try:
        with _counting(seen):
            yield seen
    finally:
        handle.remove()


def _shape_of(tensor: Tensor) -> Tensor:
    return torch.empty_like(tensor, device="meta")


def _batch_shape(arguments: tuple) -> tuple[int, int, int] | None:
    if not arguments or not isinstance(arguments[0], Batch):
        return None
    batch = arguments[0]
    return (*batch.ids_BL.shape, batch.response_mask_BR.shape[1])


@contextlib.contextmanager
def _counting(seen: Seen) -> Iterator[None]:
    """Wrap the process group's own methods.

    DeepSpeed keeps references to some functions of torch.distributed, which wrapping would miss.
    """
    originals = {name: vars(ProcessGroup)[name] for name in COLLECTIVES}
    for name in originals:
        setattr(ProcessGroup, name, _counted(name, getattr(ProcessGroup, name), seen))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(ProcessGroup, name, original)


def _counted(name: str, original: Callable, seen: Seen) -> Callable:
    place, factor = COLLECTIVES[name]

    @wraps(original)
    def call(group: ProcessGroup, *arguments: Any, **options: Any) -> Any:
        seen.calls[name] += 1
        seen.sent[name] += _size(arguments[place]) * factor(group.size())
        return original(group, *arguments, **options)

    return call


def _size(value: Tensor | list) -> int:
    """Return the bytes of a tensor, or of tensors in lists of any depth."""
    return value.nbytes if isinstance(value, Tensor) else sum(map(_size, value))
