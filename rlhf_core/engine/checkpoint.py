"""Checkpoints: safetensors and JSON, complete or absent, the last few kept.

Rank 0 writes `state.safetensors`. Every other rank writes `state-N.safetensors` with what it alone
has, and reads the rest from rank 0's file. All ranks see one folder: on several hosts a shared file
system.
"""

import json
import os
import shutil
import zlib
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from rlhf_core.batching.collective import barrier, gathered
from rlhf_core.errors import BadInput
from rlhf_core.file_modes import follow_umask
from rlhf_core.ranks import is_rank_zero, rank, ranks

CHECKSUM = ".crc32"  # suffix of the file beside each state file
RNG = "rng"  # name of the CPU generator's state
CUDA_RNG = "rng_cuda/"  # and begin of the names of the CUDA generators' states, by device


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a stage continues after `step`."""

    step: int
    tensors: dict[str, Tensor]
    extra: dict


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int) -> None:
    """Write `step-N` by rename, then remove all but the newest `keep`.

    The states of torch's generators are saved too, those of the CPU and of every CUDA device that
    the rank sees. Every rank calls this, and writes its own states. Tensors named `.../shard/...`
    or `shard/...` are the rank's own, the others are equal on all ranks.
    """
    temporary = folder / f".step-{checkpoint.step}.tmp"
    if is_rank_zero():
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        record = {"step": checkpoint.step, "ranks": ranks(), "extra": checkpoint.extra}
        (temporary / "extra.json").write_text(json.dumps(record), encoding="utf-8")
    barrier()
    tensors = {
        name: value for name, value in checkpoint.tensors.items() if is_rank_zero() or _is_own(name)
    }
    tensors = {name: value.detach().cpu().contiguous() for name, value in tensors.items()}
    tensors |= _generator_states()
    file = temporary / _file(rank())
    save_file(_unshared(tensors), file)
    follow_umask(file)
    file.with_suffix(CHECKSUM).write_text(_checksum(file), encoding="utf-8")
    barrier()
    if is_rank_zero():
        _put_in_place(temporary, folder / f"step-{checkpoint.step:06d}")
        for old in _newest_first(folder)[keep:]:
            shutil.rmtree(old)


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


def _put_in_place(temporary: Path, final: Path) -> None:
    for file in temporary.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)


def _file(number: int) -> str:
    return f"state-{number}.safetensors" if number else "state.safetensors"


def _is_own(name: str) -> bool:
    return "shard" in name.split("/")


def _unshared(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copy tied weights, so that each is written: safetensors refuses shared memory.

    Loading ties them again.
    """
    seen: set[int] = set()
    result = {}
    for name, value in tensors.items():
        result[name] = value.clone() if value.data_ptr() in seen else value
        seen.add(value.data_ptr())
    return result


def load_checkpoint(folder: Path) -> Checkpoint | None:
    """Return the newest checkpoint that every rank can read, or None.

    A damaged one is passed over, with a line on stdout. Raises BadInput for one that another number
    of ranks wrote.
    """
    names = gathered([path.name for path in _newest_first(folder)])[0]
    for name in names:
        found = _read(folder / name)
        everywhere = all(gathered(found is not None))
        if found is not None and everywhere:
            _restore_generators(found.tensors)
            return found
    return None


def _read(path: Path) -> Checkpoint | None:
    try:
        record = json.loads((path / "extra.json").read_text(encoding="utf-8"))
        if record["ranks"] != ranks():
            raise BadInput(
                f"{path} was written by {record['ranks']} ranks, this run has {ranks()}; "
                "start as many again, or remove the folder to begin anew"
            )
        tensors = _load(path / _file(0))
        if not is_rank_zero():
            common = {name: value for name, value in tensors.items() if not _is_own(name)}
            tensors = common | _load(path / _file(rank()))
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        print(f"checkpoint {path.name} cannot be read ({error}); trying the one before it")
        return None
    return Checkpoint(record["step"], tensors, record["extra"])


def _load(file: Path) -> dict[str, Tensor]:
    if file.with_suffix(CHECKSUM).read_text(encoding="utf-8") != _checksum(file):
        raise ValueError(f"{file.name} holds other bytes than were written")
    return load_file(file)


def _checksum(file: Path) -> str:
    """Return the CRC-32, hexadecimal; safetensors itself does not notice a changed weight."""
    found = 0
    with file.open("rb") as data:
        while chunk := data.read(1 << 20):
            found = zlib.crc32(chunk, found)
    return f"{found:08x}"


def _newest_first(folder: Path) -> list[Path]:
    return sorted(folder.glob("step-*"), reverse=True)
