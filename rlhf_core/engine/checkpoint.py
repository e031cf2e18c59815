"""Checkpoints: tensors, the states of random generators and JSON, for any number of ranks.

The ranks that wrote a checkpoint read their own files back, bit for bit. Another number of ranks,
or another ZeRO stage, reads every weight from the files that hold it.
"""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from rlhf_core.batching.collective import gathered
from rlhf_core.engine.checkpoint_files import (
    RECORD,
    CheckpointFiles,
    load_verified,
    newest_first,
    state_file,
    verify,
)
from rlhf_core.engine.continued import CONTINUED, stopped_before
from rlhf_core.engine.state_layout import Layout, SavedState, own_part
from rlhf_core.errors import BadInput
from rlhf_core.ranks import is_rank_zero, rank, ranks

RNG = "rng"  # name of the CPU generator's state
CUDA_RNG = "rng_cuda/"  # and begin of the names of the CUDA generators' states, by device
Layouts = Mapping[str, Layout]  # by the prefix of an engine's names, '' or 'actor/'


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a stage continues after `step`.

    layouts: of the engines; without them only as many ranks can go on.
    """

    step: int
    tensors: dict[str, Tensor]
    extra: dict
    layouts: Layouts = field(default_factory=dict)


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write `step-N` by rename, then remove all but the newest `keep`.

    The states of torch's generators are saved too, those of the CPU and of every CUDA device that
    the rank sees. Every rank calls this, and writes its own states. Tensors named `.../shard/...`
    or `shard/...` are the rank's own, the others are equal on all ranks.
    """
    files = begin(folder, checkpoint, keep=keep)
    files.write(own_tensors(checkpoint, copy=False))


def begin(folder: Path, checkpoint: Checkpoint, *, keep: int) -> CheckpointFiles:
    """Return the files of a checkpoint, whose folder is made; all ranks take part."""
    files = CheckpointFiles(folder, checkpoint.step, keep)
    layouts = _as_json(checkpoint.layouts)
    record = {"step": checkpoint.step, "ranks": ranks(), "extra": checkpoint.extra}
    files.begin(record | {"layouts": layouts})
    return files


def own_tensors(checkpoint: Checkpoint, *, copy: bool) -> dict[str, Tensor]:
    """Return what this rank writes, in main memory, with the states of its generators.

    copy: so that the next step changes none of it.
    """
    own = {
        name: value.detach().to("cpu", copy=copy).contiguous()
        for name, value in checkpoint.tensors.items()
        if is_rank_zero() or _is_own(name)
    }
    return own | _generator_states()


def _as_json(layouts: Layouts) -> dict:
    return {prefix: layout.model_dump(mode="json") for prefix, layout in layouts.items()}


def _generator_states() -> dict[str, Tensor]:
    states = {RNG: torch.get_rng_state()}
    if torch.cuda.is_available():
        found = torch.cuda.get_rng_state_all()
        states |= {f"{CUDA_RNG}{device}": state for device, state in enumerate(found)}
    return states


def _restore_generators(tensors: dict[str, Tensor]) -> None:
    """Take the generators' states out of the tensors and set them.

    A state of a CUDA device that this machine lacks is left aside: the stage goes on, with other
    random numbers on the devices that it has.
    """
    torch.set_rng_state(tensors.pop(RNG))
    devices = torch.cuda.device_count() if torch.cuda.is_available() else 0
    for name in [name for name in tensors if name.startswith(CUDA_RNG)]:
        state, device = tensors.pop(name), int(name.removeprefix(CUDA_RNG))
        if device < devices:
            torch.cuda.set_rng_state(state, device)


def _is_own(name: str) -> bool:
    return "shard" in name.split("/")


def load_checkpoint(folder: Path, layouts: Layouts | None = None) -> Checkpoint | None:
    """Return the newest checkpoint that every rank can read, or None.

    layouts: of the engines that go on. A damaged checkpoint is passed over, with a line on stdout.
    Raises BadInput for one of another number of ranks that was written without layouts.
    """
    names = gathered([path.name for path in newest_first(folder)])[0]
    for name in names:
        found = _read(folder / name, layouts or {})
        everywhere = all(gathered(found is not None))
        if found is not None and everywhere:
            _restore_generators(found.tensors)
            return found
    return None


def _read(path: Path, layouts: Layouts) -> Checkpoint | None:
    try:
        record = json.loads((path / RECORD).read_text(encoding="utf-8"))
        wrote = record.get("layouts", {})
        if record["ranks"] == ranks() and wrote == _as_json(layouts):
            tensors = _as_written(path)
        else:
            theirs = {prefix: Layout.model_validate(found) for prefix, found in wrote.items()}
            _require_layouts(path, record["ranks"], theirs, layouts)
            tensors = _divided_anew(path, record["ranks"], theirs, layouts)
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        print(f"checkpoint {path.name} cannot be read ({error}); trying the one before it")
        return None
    return Checkpoint(record["step"], tensors, record["extra"], layouts)


def _require_layouts(path: Path, count: int, theirs: Layouts, ours: Layouts) -> None:
    if theirs.keys() != ours.keys() or not theirs:
        raise BadInput(
            f"{path} was written by {count} ranks with layouts {sorted(theirs)}, this run has"
            f" {ranks()} ranks with {sorted(ours)}; start as many again, or remove {_all_of(path)}"
            " to begin anew"
        )


def _all_of(path: Path) -> str:
    """Return the run directory of a checkpoint, and those that its first checkpoints are from."""
    run_dir = next((folder for folder in path.parents if (folder / CONTINUED).exists()), None)
    if run_dir is None:
        return "the folder"
    before = [run_dir.parent / name for name in stopped_before(run_dir)]
    return " and ".join(map(str, [run_dir, *before]))


def _as_written(path: Path) -> dict[str, Tensor]:
    """Return what this rank wrote, and what rank 0 wrote for all."""
    tensors = load_verified(path / state_file(0))
    if is_rank_zero():
        return tensors
    common = {name: value for name, value in tensors.items() if not _is_own(name)}
    return common | load_verified(path / state_file(rank()))


def _divided_anew(path: Path, count: int, theirs: Layouts, ours: Layouts) -> dict[str, Tensor]:
    """Return this rank's part of what `count` ranks wrote, in the form of the engines' states.

    The ranks share the check of the files. A rank beyond `count` takes the generators' states of
    an earlier one. Tensors of no engine are equal on all ranks, and rank 0 wrote them.
    """
    files = [path / state_file(number) for number in range(count)]
    for file in files[rank() :: ranks()]:
        verify(file)
    print(f"checkpoint {path.name} of {count} rank(s) is divided anew among {ranks()}")
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(safe_open(file, framework="pt")) for file in files]
        first, own = opened[0], opened[rank() % count]
        names, common = own.keys(), first.keys()
        tensors = {name: own.get_tensor(name) for name in names if _is_generator(name)}
        besides = [name for name in common if not name.startswith(tuple(theirs))]
        tensors |= {name: first.get_tensor(name) for name in besides if not _is_generator(name)}
        for prefix, layout in ours.items():
            part = own_part(SavedState(opened, theirs[prefix], prefix), layout, rank())
            tensors |= {prefix + name: value for name, value in part.items()}
    return tensors


def _is_generator(name: str) -> bool:
    return name == RNG or name.startswith(CUDA_RNG)
